import type { Clock } from '../clock.ts';
import type { Link } from './connection.ts';

/** The sign that a replica lives. Others take over what it produces when it has run out. */
export interface Lease {
  /** Whether it can not have run out yet: false after this process was stopped for long. */
  readonly isHeld: boolean;
  /**
   * Milliseconds for which it was renewed without a break. While that is short, others may not have been
   * able to renew theirs: Redis was away, or refused to write.
   */
  readonly steadyMs: number;
  /** Calls the listener when it was found gone: the process was stopped for long, or Redis was emptied. */
  onLost(listener: () => void): void;
  /** Calls the listener each time that it was renewed. */
  onRenewed(listener: () => void): void;
  /** Gives it up. */
  close(): Promise<void>;
}

const LEASE_MS = 5_000;
const RENEW_MS = 1_000;

export function createLease(link: Link, clock: Clock, key: string): Lease {
  const lost: (() => void)[] = [];
  const renewed: (() => void)[] = [];
  let heldUntil = Number.NEGATIVE_INFINITY;
  let steadySince: number | undefined;
  let closed = false;
  let cancel = () => {};

  const renew = async () => {
    cancel();
    cancel = clock.after(RENEW_MS, renew);
    const sentAt = clock.now();
    const isFirst = heldUntil === Number.NEGATIVE_INFINITY;
    try {
      const before = await link.ask((redis) => redis.set(key, '1', 'PX', LEASE_MS, 'GET'));
      if (closed) return;
      if (sentAt > heldUntil) steadySince = undefined;
      heldUntil = sentAt + LEASE_MS;
      steadySince ??= clock.now();
      if (before === null && !isFirst) for (const listener of lost) listener();
      for (const listener of renewed) listener();
    } catch {
      steadySince = undefined; // Asked again in a second.
    }
  };
  link.onBack(() => void renew());

  return {
    get isHeld() {
      return clock.now() < heldUntil;
    },
    get steadyMs() {
      return steadySince === undefined || clock.now() >= heldUntil ? 0 : clock.now() - steadySince;
    },
    onLost: (listener) => void lost.push(listener),
    onRenewed: (listener) => void renewed.push(listener),
    async close() {
      closed = true;
      cancel();
      await link.ask((redis) => redis.del(key)).catch(() => {});
    },
  };
}
