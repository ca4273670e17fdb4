import type { Clock } from '../clock.ts';
import { RedisUnavailable } from '../redis/connection.ts';
import type { Cluster } from '../redis/index.ts';
import { loadScript, runScript } from '../redis/script.ts';
import { type Costs, type CostUse, KEEP_MS, type OpenCharge } from './costs.ts';
import { EndMarks } from './end-marks.ts';
import { KnownCosts } from './known-costs.ts';

export interface SharedCostsOptions {
  readonly clock: Clock;
  readonly expectedReplicas: number;
  /** Called when Redis is unavailable and this replica grants its share alone. */
  onDegraded(): void;
}

/** A generation that Redis has to know. */
interface Entry extends CostUse {
  readonly id: string;
  cost: number;
  hasEnded: boolean;
  /** Cost that Redis has confirmed. */
  confirmed: number;
  /** True if Redis has confirmed the end, or another replica sends it. */
  isDone: boolean;
  /** True if Redis may get an earlier command of the generation later. */
  isRepeated: boolean;
}

/** Bound of the generations that wait for Redis. Beyond it, what Redis has of the oldest one stays as it is. */
const MAX_UNSENT = 100_000;

const CHARGE = loadScript(new URL('./scripts/charge-cost.lua', import.meta.url));
/** In place of an amount: charges without a check. */
const NO_CHECK = -1;

/**
 * Costs in Redis. Every command says what one generation costs, so it can be sent again: after an outage, and after
 * Redis has lost its data. While Redis is unavailable, this replica grants its share of what was left.
 */
export function createSharedCosts(
  { connection, key: keyOf, lease, replica }: Cluster,
  { clock, expectedReplicas, onDegraded }: SharedCostsOptions,
): Costs {
  const known = new KnownCosts();
  const marks = new EndMarks(clock);
  /** Charges of running generations. */
  const running = new Set<Entry>();
  const unsent = new Set<Entry>();
  let last = 0;

  const open = ({ key, ends }: CostUse): Entry => {
    const id = `${replica}:${++last}`;
    return { key, ends, id, cost: 0, hasEnded: false, confirmed: 0, isDone: false, isRepeated: false };
  };
  /** Changes an entry, and the sum of what is not confirmed. */
  const update = (entry: Entry, changes: Partial<Pick<Entry, 'cost' | 'confirmed'>>) => {
    const before = entry.cost - entry.confirmed;
    Object.assign(entry, changes);
    known.addUnconfirmed(entry.key, entry.cost - entry.confirmed - before);
  };

  /** Sends what a generation costs. Returns false if that does not fit. @throws RedisUnavailable, ReplyError */
  const send = async (entry: Entry, amount = NO_CHECK): Promise<boolean> => {
    const { key, ends, id, cost, hasEnded } = entry;
    const redisKey = keyOf('limit', 'budget', key);
    const { since = '', ended = 0 } = known.find(key) ?? {};
    const ttlMs = Math.max(0, ends - Date.now()) + KEEP_MS;
    let mayHaveArrived = false;
    unsent.delete(entry);
    try {
      const reply = await connection.run((redis) => {
        mayHaveArrived = true;
        return runScript(redis, CHARGE, [redisKey], [id, cost, amount, hasEnded ? 1 : 0, ttlMs, since, ended]);
      });
      const [charged, endedNow, runningNow, sinceNow] = reply as [number, number, number, string];
      known.set(key, { since: sinceNow, ended: endedNow, used: endedNow + runningNow, ends });
      if (charged === 0) return false;
      update(entry, { confirmed: cost });
      entry.isDone ||= hasEnded;
      // If an earlier command may arrive after it, the mark stays until the period ends.
      if (hasEnded && !entry.isRepeated) marks.add(redisKey, id);
      return true;
    } catch (error) {
      if (error instanceof RedisUnavailable && mayHaveArrived) entry.isRepeated = true;
      throw error;
    }
  };

  const keep = (entry: Entry) => {
    if (entry.isDone) return;
    const [oldest] = unsent.size >= MAX_UNSENT ? unsent : [];
    if (oldest !== undefined) {
      unsent.delete(oldest);
      update(oldest, { confirmed: oldest.cost });
    }
    unsent.add(entry);
  };
  const sendOrKeep = (entry: Entry) => void send(entry).catch(() => keep(entry));
  const sendUnsent = () => {
    for (const entry of [...unsent]) sendOrKeep(entry);
  };

  lease.onMissing(() => {
    for (const entry of running) keep(entry);
    // A generation that costs nothing carries what Redis may have lost.
    for (const use of known.current(Date.now())) keep({ ...open(use), hasEnded: true });
  });
  connection.onAvailable(() => {
    for (const entry of running) keep(entry);
  });
  lease.onRenewed(() => {
    sendUnsent();
    for (const [key, ids] of marks.takeDue()) connection.run((redis) => redis.hdel(key, ...ids)).catch(() => {});
  });

  /** Returns true if an estimate fits into the share of this replica. */
  const fitsAlone = (key: string, amount: number, estimate: number): boolean => {
    const share = Math.floor(Math.max(0, amount - (known.find(key)?.used ?? 0)) / expectedReplicas);
    return estimate === 0 || (share > 0 && known.unconfirmed(key) + Math.min(estimate, share) <= share);
  };

  const toCharge = (entry: Entry): OpenCharge => {
    running.add(entry);
    return {
      id: entry.id,
      settle(cost) {
        running.delete(entry);
        update(entry, { cost });
        entry.hasEnded = true;
        sendOrKeep(entry);
      },
      handOver() {
        running.delete(entry);
        unsent.delete(entry);
        entry.isDone = true;
        update(entry, { confirmed: entry.cost });
      },
    };
  };

  return {
    async charge(use, amount, estimate) {
      // What this replica has charged alone comes first.
      if (connection.isAvailable && known.unconfirmed(use.key) !== 0) sendUnsent();
      const entry = open(use);
      update(entry, { cost: estimate });
      let isCharged = false;
      try {
        isCharged = await send(entry, amount);
      } catch {
        onDegraded();
        update(entry, { cost: 0 });
        isCharged = fitsAlone(use.key, amount, estimate);
        update(entry, { cost: isCharged ? estimate : 0 });
        entry.hasEnded = !isCharged;
        // Redis may have charged it, and has to know.
        if (isCharged || entry.isRepeated) keep(entry);
      }
      if (isCharged) return toCharge(entry);
      update(entry, { cost: 0 });
      return undefined;
    },
    adopt: ({ key, ends, id, estimate }) =>
      toCharge({ ...open({ key, ends }), id, cost: estimate, confirmed: estimate, isRepeated: true }),
  };
}
