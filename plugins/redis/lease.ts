import type { Clock } from '../clock.ts';
import type { Link } from './link.ts';

/** The sign that a replica lives. Others take over what it produces when it has run out. */
export interface Lease {
  /** Whether it can not have run out yet: false after this process was stopped for long. */
  readonly isHeld: boolean;
  /** Calls the listener when it was found gone: the process was stopped for long, or Redis was emptied. */
  onLost(listener: () => void): void;
  /** Gives it up. */
  close(): Promise<void>;
}

const LEASE_MS = 5_000;
const RENEW_MS = 1_000;

export function createLease(link: Link, clock: Clock, key: string): Lease {
  const listeners: (() => void)[] = [];
  let heldUntil = Number.NEGATIVE_INFINITY;
  let closed = false;
  let cancel = () => {};

  const renew = async () => {
    cancel();
    cancel = clock.after(RENEW_MS, renew);
    if (!link.up) return;
    const sentAt = clock.now();
    const isFirst = heldUntil === Number.NEGATIVE_INFINITY;
    try {
      const before = await link.ask((redis) => redis.set(key, '1', 'PX', LEASE_MS, 'GET'));
      if (closed) return;
      heldUntil = sentAt + LEASE_MS;
      if (before === null && !isFirst) for (const listener of listeners) listener();
    } catch {
      // Asked again in a second.
    }
  };
  link.onBack(() => void renew());

  return {
    get isHeld() {
      return clock.now() < heldUntil;
    },
    onLost: (listener) => void listeners.push(listener),
    async close() {
      closed = true;
      cancel();
      await link.ask((redis) => redis.del(key)).catch(() => {});
    },
  };
}
