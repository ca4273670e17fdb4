import type { FastifyBaseLogger } from 'fastify';
import type { Metrics } from '../metrics/index.ts';
import { isNetworkReason, type Problem, problem } from './problems.ts';

/**
 * Parts without which streams cannot be shared, in the order in which their problems are reported: Redis replies,
 * it accepts the lease, the user has the rights, messages of other replicas arrive.
 */
const PARTS = ['connection', 'lease', 'rights', 'mailbox'] as const;
export type Part = (typeof PARTS)[number];

/** Says whether streams can be shared through Redis. The only place that sets `sluice_redis_up` and logs outages. */
export interface RedisHealth {
  /** True if streams can be shared: no part has a problem. */
  readonly isAvailable: boolean;
  /** Returns true if no part up to and including this one has a problem. */
  works(upTo: Part): boolean;
  /** Reports the problem of a part; undefined if it has none now. */
  report(part: Part, problem: Problem | undefined): void;
  /** Calls the listener each time streams can be shared again, also the first time. */
  onAvailable(listener: () => void): void;
  /** Calls the listener each time streams can no longer be shared. */
  onUnavailable(listener: () => void): void;
  /** Logs the present problem if there is one. Nothing is logged before, so that a start has time to connect. */
  startLog(): void;
  /** Stops reporting: what follows belongs to the end of the process. */
  close(): void;
}

const PENDING = problem('pending');
const CONSEQUENCE = 'streams continue in memory and cannot be resumed on other replicas';

export function createHealth({ metrics, log }: { metrics: Metrics; log: FastifyBaseLogger }): RedisHealth {
  const problems = new Map<Part, Problem>(PARTS.map((part) => [part, PENDING]));
  const availableListeners: (() => void)[] = [];
  const unavailableListeners: (() => void)[] = [];
  /** Reasons that were logged since streams were last shared. */
  const logged = new Set<string>();
  let isLogging = false;
  let isClosed = false;
  metrics.redisUp.set(0);

  const logProblem = (when: string) => {
    const found = PARTS.map((part) => problems.get(part)).filter((known) => known !== undefined);
    const known = found.find((other) => other !== PENDING);
    if (!isLogging || known === undefined) return;
    const { reason, hint } = known;
    const missing = found.flatMap((other) => (other.reason === reason ? (other.missing ?? []) : []));
    // One outage of the network has several codes, one after another.
    const kind = isNetworkReason(reason) ? 'network' : [reason, ...missing].join(' ');
    // A reason without details says less than what was logged before.
    if ([...logged].some((other) => other === kind || other.startsWith(`${kind} `))) return;
    logged.add(kind);
    log.warn({ reason, hint, ...(missing.length > 0 && { missing }) }, `redis unavailable${when}; ${CONSEQUENCE}`);
  };

  return {
    get isAvailable() {
      return problems.size === 0 && !isClosed;
    },
    works: (upTo) => !isClosed && PARTS.slice(0, PARTS.indexOf(upTo) + 1).every((part) => !problems.has(part)),
    report(part, reported) {
      if (isClosed) return;
      const wasAvailable = problems.size === 0;
      if (reported === undefined) problems.delete(part);
      else problems.set(part, reported);
      const isAvailable = problems.size === 0;
      if (!isAvailable) logProblem('');
      if (isAvailable === wasAvailable) return;
      metrics.redisUp.set(isAvailable ? 1 : 0);
      if (isAvailable && isLogging) log.info('redis available');
      if (isAvailable) logged.clear();
      for (const listener of isAvailable ? availableListeners : unavailableListeners) listener();
    },
    onAvailable: (listener) => void availableListeners.push(listener),
    onUnavailable: (listener) => void unavailableListeners.push(listener),
    startLog() {
      isLogging = true;
      if (problems.size > 0) logProblem(' at start');
    },
    close() {
      isClosed = true;
    },
  };
}
