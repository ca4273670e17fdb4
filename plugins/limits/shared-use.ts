import { RedisUnavailable } from '../redis/connection.ts';
import type { Cluster } from '../redis/index.ts';
import { loadScript, runScript } from '../redis/script.ts';
import type { Period } from './period.ts';

export interface Charge {
  readonly passed: boolean;
  /** Milliseconds until the tokens fit; 0 if they were charged. */
  readonly retryAfterMs: number;
  /**
   * Ends the charge: adds the tokens that were used beyond it, even beyond the limit, or gives negative ones back.
   * Call once, also with 0. The tokens go where they were charged: to this process, or to Redis.
   */
  adjust(tokens: number): void;
}

/** The use of all owners in Redis. */
export interface SharedUse {
  /**
   * Charges tokens if they fit.
   * @param onDelayed called with tokens beyond the charge that Redis cannot be told of now
   * @throws RedisUnavailable, ReplyError
   */
  charge(owner: string, limit: number, tokens: number, onDelayed: (tokens: number) => void): Promise<Charge>;
}

/** The end of a generation, as Redis has to know it. */
interface End {
  readonly owner: string;
  readonly limit: number;
  readonly estimate: number;
  readonly used: number;
  /** True if Redis may have got this end already, or may get its charge later. */
  readonly isRepeated: boolean;
}

/** Bound of the ends that wait for Redis. Beyond it, the estimate of the oldest one stays charged. */
export const MAX_UNSENT = 100_000;

const CHARGE = loadScript(new URL('./scripts/charge-tokens.lua', import.meta.url));
const SETTLE = loadScript(new URL('./scripts/settle-tokens.lua', import.meta.url));

/**
 * Charges in Redis. Every generation has an id, so that its end can be sent again after Redis was unavailable: it
 * counts once.
 */
export function createSharedUse({ connection, key, lease, replica }: Cluster, { name, ms }: Period): SharedUse {
  /** Ends that Redis may not know yet, by the id of their generation. */
  const unsent = new Map<string, End>();
  let last = 0;

  const useKey = (owner: string) => key('limit', name, owner);

  const keep = (id: string, end: End) => {
    const [oldest] = unsent.size >= MAX_UNSENT ? unsent.keys() : [];
    if (oldest !== undefined) unsent.delete(oldest);
    unsent.set(id, end);
  };

  const settle = async (id: string, end: End): Promise<void> => {
    unsent.delete(id);
    const { owner, limit, estimate, used, isRepeated } = end;
    let mayHaveArrived = isRepeated;
    try {
      await connection.run((redis) => {
        mayHaveArrived = true;
        return runScript(redis, SETTLE, [useKey(owner)], [limit, id, estimate, used, isRepeated ? 1 : 0, ms]);
      });
    } catch (error) {
      keep(id, { ...end, isRepeated: error instanceof RedisUnavailable ? mayHaveArrived : isRepeated });
      throw error;
    }
  };

  lease.onRenewed(() => {
    for (const [id, end] of [...unsent]) settle(id, end).catch(() => {}); // Sent again at the next renewal.
  });

  return {
    async charge(owner, limit, estimate, onDelayed) {
      const id = `${replica}:${++last}`;
      const end = { owner, limit, estimate };
      let mayHaveArrived = false;
      try {
        const reply = await connection.run((redis) => {
          mayHaveArrived = true;
          return runScript(redis, CHARGE, [useKey(owner)], [limit, id, estimate, ms]);
        });
        const [charged, retryAfterMs] = reply as [number, number];
        return {
          passed: charged === 1,
          retryAfterMs,
          adjust(more) {
            settle(id, { ...end, used: estimate + more, isRepeated: false }).catch(() => {
              if (more > 0) onDelayed(more);
            });
          },
        };
      } catch (error) {
        if (mayHaveArrived && error instanceof RedisUnavailable) keep(id, { ...end, used: 0, isRepeated: true });
        throw error;
      }
    },
  };
}
