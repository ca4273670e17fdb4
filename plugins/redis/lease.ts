import type { Clock } from '../clock.ts';
import type { RedisConnection } from './connection.ts';

/** Lease that marks this replica as alive. When it expires, other replicas take over the streams it produces. */
export interface Lease {
  /** False if the lease may have expired, for example after this process was paused. */
  readonly isHeld: boolean;
  /**
   * Milliseconds of renewals without a gap. While this is short, other replicas may not have been able
   * to renew their leases either: Redis was unavailable or refused to write.
   */
  readonly renewedForMs: number;
  /** Calls the listener when the lease was found missing: this process was paused, or Redis was emptied. */
  onLost(listener: () => void): void;
  /** Calls the listener after each renewal. */
  onRenewed(listener: () => void): void;
  /** Deletes the lease. */
  close(): Promise<void>;
}

const LEASE_MS = 5_000;
const RENEW_MS = 1_000;

export function createLease(connection: RedisConnection, clock: Clock, key: string): Lease {
  const lostListeners: (() => void)[] = [];
  const renewedListeners: (() => void)[] = [];
  let heldUntil = Number.NEGATIVE_INFINITY;
  let renewedSince: number | undefined;
  let isClosed = false;
  let cancelRenewal = () => {};

  const renew = async () => {
    cancelRenewal();
    cancelRenewal = clock.after(RENEW_MS, renew);
    const sentAt = clock.now();
    const isFirst = heldUntil === Number.NEGATIVE_INFINITY;
    try {
      const before = await connection.run((redis) => redis.set(key, '1', 'PX', LEASE_MS, 'GET'));
      if (isClosed) return;
      if (sentAt > heldUntil) renewedSince = undefined;
      heldUntil = sentAt + LEASE_MS;
      renewedSince ??= clock.now();
      if (before === null && !isFirst) for (const listener of lostListeners) listener();
      for (const listener of renewedListeners) listener();
    } catch {
      renewedSince = undefined; // Retried in a second.
    }
  };
  connection.onReconnect(() => void renew());

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
      isClosed = true;
      cancelRenewal();
      await connection.run((redis) => redis.del(key)).catch(() => {});
    },
  };
}
