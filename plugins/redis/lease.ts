import type { Clock } from '../clock.ts';
import type { ProbedConnection } from './connection.ts';
import type { RedisHealth } from './health.ts';
import { isPartialRefusal, needsReconnect, problem, reasonOf } from './problems.ts';
import { isReplyError } from './reply-error.ts';
import type { SelfTest } from './self-test.ts';

/**
 * Lease that marks this replica as alive. When it is missing for a while, other replicas take over the streams it
 * produces. Its renewal is also the probe that shows whether Redis works: it is a write that every replica needs.
 */
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
  /** Renews the lease now: it was deleted or evicted. */
  renew(): void;
  /** Deletes the lease. */
  close(): Promise<void>;
}

export interface LeaseOptions {
  readonly connection: ProbedConnection;
  readonly health: RedisHealth;
  readonly selfTest: SelfTest;
  readonly clock: Clock;
  readonly key: string;
}

/** Time to live of a lease. A replica is dead 1.5 s after it has ended: both within the 6 s that readers may wait. */
const LEASE_MS = 3_500;
/** Time between two renewals. */
const RENEW_MS = 1_000;
/** The same after a renewal without a reply. */
const RETRY_MS = 500;
/** Least time between two renewals, however many commands are refused meanwhile. */
const MIN_RENEW_MS = 200;
/** Renewals in a row without a reply after which the connection counts as dead: well before the lease ends. */
const MAX_UNANSWERED = 3;
/** Looks in a row at a connection that was opened, but on which Redis says nothing, after which it is opened again. */
const MAX_OPENING = 6;
/** Pause before the second reconnect because of what Redis replies. Doubles each time. */
const RECONNECT_MS = 1_000;
const MAX_RECONNECT_MS = 10_000;

/** Creates the lease. The first renewal happens when Redis is connected. */
export function createLease({ connection, health, selfTest, clock, key }: LeaseOptions): Lease {
  const missingListeners: (() => void)[] = [];
  const renewedListeners: (() => void)[] = [];
  let heldUntil = Number.NEGATIVE_INFINITY;
  let renewedSince: number | undefined;
  let isClosed = false;
  let isRenewing = false;
  let startedAt = Number.NEGATIVE_INFINITY;
  let unanswered = 0;
  let opening = 0;
  let reconnectPauseMs = 0;
  let reconnectedAt = Number.NEGATIVE_INFINITY;
  let cancelRenewal = () => {};

  const schedule = (ms: number) => {
    cancelRenewal();
    if (!isClosed) cancelRenewal = clock.after(ms, () => void renew());
  };

  const onRenewed = (before: string | null, sentAt: number) => {
    const isFirst = heldUntil === Number.NEGATIVE_INFINITY;
    if (sentAt > heldUntil) renewedSince = undefined;
    heldUntil = sentAt + LEASE_MS;
    renewedSince ??= clock.now();
    health.report('connection', undefined);
    health.report('lease', undefined);
    void selfTest.runIfDue();
    if (before === null && !isFirst) for (const listener of missingListeners) listener();
    for (const listener of renewedListeners) listener();
  };

  const onRefused = async (reason: string) => {
    if (isPartialRefusal(reason)) {
      // It knows everything that is missing, and so reports first.
      selfTest.request();
      await selfTest.runIfDue();
    }
    health.report('lease', problem(reason));
    health.report('connection', undefined); // Redis replies.
    if (!needsReconnect(reason) || clock.now() - reconnectedAt < reconnectPauseMs) return;
    reconnectedAt = clock.now();
    reconnectPauseMs = Math.min(MAX_RECONNECT_MS, Math.max(RECONNECT_MS, 2 * reconnectPauseMs));
    connection.reconnect(problem(reason));
  };

  const onUnanswered = () => {
    const { state } = connection;
    opening = state === 'opening' ? opening + 1 : 0;
    unanswered = state === 'open' ? unanswered + 1 : 0;
    const isUnusable = unanswered >= MAX_UNANSWERED || opening >= MAX_OPENING;
    if (isUnusable || opening > 1) health.report('connection', problem('timeout'));
    if (!isUnusable) return;
    unanswered = 0;
    opening = 0;
    connection.reconnect(problem('timeout'));
  };

  async function renew(): Promise<void> {
    if (isRenewing || isClosed) return;
    cancelRenewal();
    isRenewing = true;
    const sentAt = clock.now();
    startedAt = sentAt;
    let waitMs = RENEW_MS;
    try {
      const before = await connection.probe((redis) => redis.set(key, '1', 'PX', LEASE_MS, 'GET'));
      if (isClosed) return;
      unanswered = 0;
      opening = 0;
      reconnectPauseMs = 0;
      onRenewed(before, sentAt);
    } catch (error) {
      renewedSince = undefined;
      if (isClosed) return;
      if (isReplyError(error)) {
        unanswered = 0;
        await onRefused(reasonOf(error));
      } else {
        waitMs = RETRY_MS;
        onUnanswered();
      }
    } finally {
      isRenewing = false;
      schedule(waitMs);
    }
  }

  connection.onProbeNeeded((why) => {
    if (isPartialRefusal(why)) selfTest.request();
    if (isRenewing || isClosed) return;
    if (why === 'connected') void renew();
    else if (why === 'failures') schedule(RETRY_MS);
    else schedule(Math.max(0, startedAt + MIN_RENEW_MS - clock.now()));
  });
  schedule(RETRY_MS);

  return {
    get isHeld() {
      return clock.now() < heldUntil;
    },
    get renewedForMs() {
      return renewedSince === undefined || clock.now() >= heldUntil ? 0 : clock.now() - renewedSince;
    },
    onMissing: (listener) => void missingListeners.push(listener),
    onRenewed: (listener) => void renewedListeners.push(listener),
    renew: () => void renew(),
    async close() {
      isClosed = true;
      cancelRenewal();
      await connection.query((redis) => redis.del(key)).catch(() => {});
    },
  };
}
