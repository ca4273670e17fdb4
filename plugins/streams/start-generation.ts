import type { FastifyBaseLogger } from 'fastify';
import type { AnswerPart, FinishPart } from '../../providers/types.ts';
import type { Credential } from '../auth/revocation.ts';
import type { Clock } from '../clock.ts';
import type { ModelRoute } from '../config/model-routes.ts';
import type { ModelPrice } from '../config/price-file.ts';
import type { Reservation } from '../limits/reservation.ts';
import { type TokenUse, withUncounted } from '../limits/tokens.ts';
import type { AnswerSink, PartSink } from '../llm/attempt.ts';
import type { GenerateOptions, LlmClient, Prompt } from '../llm/client.ts';
import type { Metrics } from '../metrics/index.ts';
import type { CostUse } from '../prices/cost.ts';
import { createAttempts, wasRefused } from '../usage/attempts.ts';
import type { UsageRecords } from '../usage/index.ts';
import type { AdmissionControl } from './admission.ts';
import type { AnswerStates } from './answer-states.ts';
import { runGeneration } from './generation.ts';
import { createReport } from './report.ts';
import { costUsed, totalOf } from './spending.ts';
import { PRODUCER_LOST, REVOKED } from './terminals.ts';
import type { WritableLog } from './types.ts';

export interface StartGenerationOptions {
  /** A log whose id holds a slot already. */
  readonly log: WritableLog;
  readonly route: ModelRoute;
  readonly prompt: Prompt;
  readonly logger: FastifyBaseLogger;
  /** The slot and the tokens reserved from the owner's limits. */
  readonly reservation: Reservation;
  /** The credential of the question. The answer ends with it. */
  readonly credential?: Credential | undefined;
  /** Releases the memory of the prompt. */
  readonly releasePrompt?: (() => void) | undefined;
  /** Text that the answer continues. */
  readonly partialAnswer?: string;
}

/** Calls the model and writes the answer into a log. */
export type StartGeneration = (options: StartGenerationOptions) => void;

export interface GenerationStarterOptions {
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly usage: UsageRecords;
  readonly llm: LlmClient;
  readonly admission: AdmissionControl;
  readonly states: AnswerStates;
  /** Longest answer, in UTF-16 units. */
  readonly maxChars: number;
}

/** Returns the call of the model. A function of its own, so that no closure of a running answer holds the prompt. */
function callOf(
  llm: LlmClient,
  route: ModelRoute,
  prompt: Prompt,
  toAnswerSink: (sink: PartSink) => AnswerSink,
  options: GenerateOptions,
) {
  return (sink: PartSink, signal: AbortSignal) => llm.generate(route, prompt, toAnswerSink(sink), signal, options);
}

export function createGenerationStarter(options: GenerationStarterOptions): StartGeneration {
  const { clock, metrics, usage: usageRecords, llm, admission, states, maxChars } = options;
  return ({ log, route, prompt, logger, reservation, credential, releasePrompt, partialAnswer }) => {
    const { id, owner } = log.info;
    const toolCallIds: string[] = [];
    let uncounted: FinishPart['uncounted'];
    let hasEnded = false;
    let removeListener: (() => void) | undefined;
    /** Price of the target that was asked last. */
    let price: ModelPrice | undefined;
    const report = createReport(log, route, { clock, metrics, usage: usageRecords, logger });
    const attempts = createAttempts(partialAnswer);
    const toAnswerSink = (sink: PartSink): AnswerSink => ({
      ...sink,
      onPart(part) {
        if (part.type === 'finish') uncounted = part.uncounted;
        return sink.onPart(withToolCallId(part));
      },
      onTarget(target, next) {
        price = next;
        report.onTarget(target);
        attempts.onStart(target);
      },
      onCallEnd: attempts.onEnd,
      onFirstPart() {
        report.onFirstPart();
        // From now on the prompt is not held, unless another target may continue the answer.
        if (route.onMidStreamFailure !== 'continue') releasePrompt?.();
      },
    });
    const generation = runGeneration({
      log,
      clock,
      maxLength: maxChars,
      generate: callOf(llm, route, prompt, toAnswerSink, { owner, partialAnswer }),
      onEnd(terminal, fault) {
        hasEnded = true;
        removeListener?.();
        admission.release(id);
        releasePrompt?.();
        const isFree = log.length === 0 && wasRefused(fault);
        const usage = terminal.type === 'end' ? terminal.usage : undefined;
        let used: TokenUse | undefined;
        let cost: CostUse | undefined;
        const costOf = (settled: TokenUse) => {
          used = withUncounted(settled, uncounted);
          cost = costUsed(terminal, used, price, uncounted);
          return isFree ? 0 : totalOf(cost);
        };
        // Another replica that has taken the log over counts the whole answer.
        const isLost = terminal === PRODUCER_LOST;
        reservation.settle(isFree ? { totalTokens: 0 } : usage, log.length, isLost ? undefined : costOf);
        const calls = { attempts: attempts.list(), uncounted: uncounted?.calls };
        report.onEnd(terminal, fault, calls, used, cost);
        if (terminal.type === 'end' && terminal.state) states.save(owner, toolCallIds, terminal.state);
      },
    });
    admission.attach(id, generation);
    // A call that fails at once has ended before.
    if (!hasEnded) removeListener = credential?.onRevoked(() => generation.abort(REVOKED));

    /** Gives a tool call an id that is the same for all readers: Gemini and Ollama send none. */
    function withToolCallId(part: AnswerPart): AnswerPart {
      if (part.type !== 'tool_call' || (part.id === undefined && part.name === undefined)) return part;
      const callId = part.id ?? `call_${id}_${part.index}`;
      toolCallIds.push(callId);
      return { ...part, id: callId };
    }
  };
}
