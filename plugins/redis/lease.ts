import type { Clock } from '../clock.ts';
import type { RedisConnection } from './connection.ts';

/** Lease that marks this replica as alive. When it expires, other replicas take over the streams it produces. */
export interface Lease {
  /** False if the lease may have expired, for example after this process was paused. */
  readonly isHeld: boolean;
  /**
   * Milliseconds since the start of the current series of renewals without a failure; 0 if there is none.
   * While this is short, other replicas may not have been able to renew their leases either: Redis was
   * unavailable or refused to write.
   */
  readonly renewedForMs: number;
  /** Calls the listener when the lease was found missing: this process was paused, or Redis was emptied. */
  onMissing(listener: () => void): void;
  /** Calls the listener after each renewal. */
  onRenewed(listener: () => void): void;
  /** Deletes the lease. */
  close(): Promise<void>;
}

/** Time to live of a lease. */
const LEASE_MS = 5_000;
/** Time between two renewals. */
const RENEW_MS = 1_000;

/** Creates the lease. The first renewal happens when Redis becomes available. */
export function createLease(connection: RedisConnection, clock: Clock, key: string): Lease {
  const missingListeners: (() => void)[] = [];
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
      if (before === null && !isFirst) for (const listener of missingListeners) listener();
      for (const listener of renewedListeners) listener();
    } catch {
      renewedSince = undefined; // Retried after RENEW_MS.
    }
  };
  connection.onAvailable(() => void renew());

  return {
    get isHeld() {
      return clock.now() < heldUntil;
    },
    get renewedForMs() {
      return renewedSince === undefined || clock.now() >= heldUntil ? 0 : clock.now() - renewedSince;
    },
    onMissing: (listener) => void missingListeners.push(listener),
    onRenewed: (listener) => void renewedListeners.push(listener),
    async close() {
      isClosed = true;
      cancelRenewal();
      await connection.run((redis) => redis.del(key)).catch(() => {});
    },
  };
}
