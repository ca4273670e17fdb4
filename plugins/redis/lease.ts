import type { Clock } from '../clock.ts';
import type { RedisConnection } from './connection.ts';

/** The sign that a replica lives. Others take over what it produces when it has run out. */
export interface Lease {
  /** Whether it can not have run out yet: false after this process was stopped for long. */
  readonly isHeld: boolean;
  /**
   * Milliseconds for which it was renewed without a break. While that is short, others may not have been
   * able to renew theirs: Redis was away, or refused to write.
   */
  readonly renewedForMs: number;
  /** Calls the listener when it was found gone: the process was stopped for long, or Redis was emptied. */
  onLost(listener: () => void): void;
  /** Calls the listener each time that it was renewed. */
  onRenewed(listener: () => void): void;
  /** Gives it up. */
  close(): Promise<void>;
}

const LEASE_MS = 5_000;
const RENEW_MS = 1_000;

export function createLease(link: RedisConnection, clock: Clock, key: string): Lease {
  const lostListeners: (() => void)[] = [];
  const renewedListeners: (() => void)[] = [];
  let heldUntil = Number.NEGATIVE_INFINITY;
  let renewedSince: number | undefined;
  let closed = false;
  let cancel = () => {};

  const renew = async () => {
    cancel();
    cancel = clock.after(RENEW_MS, renew);
    const sentAt = clock.now();
    const isFirst = heldUntil === Number.NEGATIVE_INFINITY;
    try {
      const before = await link.run((redis) => redis.set(key, '1', 'PX', LEASE_MS, 'GET'));
      if (closed) return;
      if (sentAt > heldUntil) renewedSince = undefined;
      heldUntil = sentAt + LEASE_MS;
      renewedSince ??= clock.now();
      if (before === null && !isFirst) for (const listener of lostListeners) listener();
      for (const listener of renewedListeners) listener();
    } catch {
      renewedSince = undefined; // Asked again in a second.
    }
  };
  link.onReconnect(() => void renew());

  return {
    get isHeld() {
      return clock.now() < heldUntil;
    },
    get renewedForMs() {
      return renewedSince === undefined || clock.now() >= heldUntil ? 0 : clock.now() - renewedSince;
    },
    onLost: (listener) => void lostListeners.push(listener),
    onRenewed: (listener) => void renewedListeners.push(listener),
    async close() {
      closed = true;
      cancel();
      await link.run((redis) => redis.del(key)).catch(() => {});
    },
  };
}
