import type { FastifyBaseLogger } from 'fastify';
import type { Credential } from '../auth/revocation.ts';
import type { ModelRoute } from '../config/model-routes.ts';
import type { Limits } from '../limits/index.ts';
import type { Reservation } from '../limits/reservation.ts';
import type { TokenEstimate, TokenUse } from '../limits/tokens.ts';
import type { Prompt } from '../llm/client.ts';
import type { Llm } from '../llm/index.ts';
import type { Metrics } from '../metrics/index.ts';
import type { UsageRecords } from '../usage/index.ts';
import type { AdmissionControl } from './admission.ts';
import { costUsed, countSpending, totalOf } from './spending.ts';
import type { StartGeneration } from './start-generation.ts';
import { outcomeOf, PRODUCER_LOST, STOPPED } from './terminals.ts';
import type { TakeoverHandler, Terminal, WritableLog } from './types.ts';

/** Handles a log whose producer is dead: it ends as lost, or continues if its model has `onMidStreamFailure: continue`. */

/** Longer prompts (for example with images) are not stored in Redis; their answers cannot be continued. */
const MAX_PROMPT_CHARS = 262_144;

/** Returns the prompt as JSON for another replica; undefined if it is too long or its answer is never continued. */
export function serializePrompt({ onMidStreamFailure }: ModelRoute, prompt: Prompt): string | undefined {
  if (onMidStreamFailure !== 'continue') return undefined;
  const text = JSON.stringify(prompt);
  return text.length > MAX_PROMPT_CHARS ? undefined : text;
}

export interface TakeoverOptions {
  readonly metrics: Metrics;
  readonly usage: UsageRecords;
  readonly llm: Pick<Llm, 'route' | 'commonPrice' | 'prices'>;
  readonly limits: Pick<Limits, 'adoptReservation'>;
  readonly log: FastifyBaseLogger;
  readonly admission: AdmissionControl;
  readonly startGeneration: StartGeneration;
  /** Returns the credential with a mark that this replica accepts. */
  findCredential(mark: string | undefined): Credential | undefined;
}

export function createTakeoverHandler(options: TakeoverOptions): TakeoverHandler {
  const { metrics, usage, llm, limits, log: logger, admission, startGeneration, findCredential } = options;

  /** Returns the reservation of the dead producer, which has charged its estimates. */
  const adoptReservation = ({ info }: WritableLog, route: ModelRoute | undefined): Reservation => {
    const { estimate = NO_ESTIMATE, charges } = info;
    return limits.adoptReservation({ estimate, charges }, (route && llm.prices(route)) ?? []);
  };

  /**
   * Ends a log in place of its producer, which cannot count the tokens of the answer. Nobody knows which target has
   * produced it.
   */
  const endInPlace = (log: WritableLog, terminal: Terminal) => {
    const { id: stream, owner, model } = log.info;
    const route = findRoute(model, llm);
    const costOf = (used: TokenUse) => costUsed(terminal, used, route && llm.commonPrice(route));
    const used = adoptReservation(log, route).settle(undefined, log.length, (used) => totalOf(costOf(used)));
    const cost = costOf(used);
    countSpending(metrics, { model: route?.label ?? UNKNOWN_MODEL, owner, used, cost, terminal });
    usage.record({ stream, owner, model, outcome: outcomeOf(terminal), used, cost });
    log.end(terminal);
  };

  const endAsLost = (log: WritableLog) => {
    const { id, owner } = log.info;
    metrics.takeovers.inc({ outcome: 'lost' });
    logger.warn({ stream: id, owner }, 'producer of a stream is dead; the stream ends as lost');
    endInPlace(log, PRODUCER_LOST);
  };

  const continueOrEnd = async (log: WritableLog, serializedPrompt: string | undefined) => {
    const { id, model, owner, mark } = log.info;
    const partialAnswer = serializedPrompt === undefined ? undefined : await readText(log);
    const credential = findCredential(mark);
    // Of a question whose key this replica does not accept, it asks nothing.
    const isAccepted = credential?.isRevoked === false;
    if (partialAnswer === undefined || !isAccepted || admission.reserve(id) !== 'reserved') return endAsLost(log);
    try {
      const prompt = JSON.parse(serializedPrompt as string) as Prompt;
      const route = llm.route(model);
      const reservation = adoptReservation(log, route);
      startGeneration({ log, route, prompt, logger, reservation, credential, partialAnswer });
      metrics.takeovers.inc({ outcome: 'continued' });
      logger.warn({ stream: id, owner }, 'producer of a stream is dead; this replica continues the answer');
    } catch {
      admission.release(id);
      endAsLost(log);
    }
  };

  return (log, serializedPrompt, isStopRequested) => {
    if (isStopRequested) return endInPlace(log, STOPPED);
    continueOrEnd(log, serializedPrompt).catch((error: unknown) => {
      logger.error({ err: error }, 'takeover of a stream failed; the stream ends as lost');
      endAsLost(log);
    });
  };
}

/** The producer ran a version that did not store its estimate. */
const NO_ESTIMATE: TokenEstimate = { prompt: 0, total: 0 };

/** Label of a model that is not configured here, and whose name a client may have chosen. */
const UNKNOWN_MODEL = '_unknown';

function findRoute(model: string, llm: Pick<Llm, 'route'>): ModelRoute | undefined {
  try {
    return llm.route(model);
  } catch {
    return undefined;
  }
}

/** Reads all text so far. Returns undefined after a tool call: such an answer cannot be continued. */
async function readText(log: WritableLog): Promise<string | undefined> {
  let text = '';
  if (log.length === 0) return text;
  const reader = await log.read(0);
  try {
    for (;;) {
      const { parts } = await reader.next();
      for (const { part } of parts) {
        if (part.type === 'tool_call') return undefined;
        if (part.type === 'text') text += part.text;
      }
      if ((parts.at(-1)?.position ?? 0) >= log.length) return text;
    }
  } finally {
    reader.close();
  }
}
