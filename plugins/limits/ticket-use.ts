import { createHash } from 'node:crypto';
import type { TicketTerms } from '../auth/identity.ts';
import { RecentMap } from '../recent-map.ts';
import type { Cluster } from '../redis/index.ts';
import { loadScript, runScript } from '../redis/script.ts';

/** Counts the questions that tickets have started, across all replicas. */
export interface TicketUse {
  /**
   * Counts a question. The same one counts once, as long as its stream can be kept: its first call may have failed, and
   * an EventSource asks again. Resolves with false if the ticket is used up.
   * @param question id of the question
   */
  count(ticket: TicketTerms, question: string): Promise<boolean>;
}

export interface TicketUseOptions {
  readonly cluster: Cluster | undefined;
  readonly expectedReplicas: number;
  /** Milliseconds for which an ended stream stays readable. */
  readonly streamTtlMs: number;
  /** Called when Redis is unavailable and this replica grants its share alone. */
  onDegraded(): void;
}

/** Tickets that are counted in this process at least; twice as many at most. */
const MAX_TICKETS = 100_000;

const USE = loadScript(new URL('./scripts/use-ticket.lua', import.meta.url));

export function createTicketUse(options: TicketUseOptions): TicketUse {
  const { cluster, expectedReplicas, streamTtlMs, onDegraded } = options;
  /** Times in milliseconds when questions were started, by ticket and by id of the question. */
  const local = new RecentMap<Map<string, number[]>>(MAX_TICKETS);

  const countLocally = (nonce: string, id: string, max: number): boolean => {
    const now = Date.now();
    const starts = local.get(nonce) ?? new Map<string, number[]>();
    const own = starts.get(id) ?? [];
    if (now < (own.at(-1) ?? Number.NEGATIVE_INFINITY) + streamTtlMs) return true;
    const count = [...starts.values()].reduce((sum, { length }) => sum + length, 0);
    if (count >= max) return false;
    local.set(nonce, starts.set(id, [...own, now]));
    return true;
  };

  return {
    async count({ nonce, expires, questions }, question) {
      const id = createHash('sha256').update(question).digest('base64url');
      if (cluster === undefined) return countLocally(nonce, id, questions);
      try {
        const keys = [cluster.key('ticket', nonce)];
        const args = [id, questions, streamTtlMs, Math.max(1, expires - Date.now())];
        return (await cluster.connection.run((redis) => runScript(redis, USE, keys, args))) === 1;
      } catch {
        onDegraded();
        return countLocally(nonce, id, Math.ceil(questions / expectedReplicas));
      }
    },
  };
}
