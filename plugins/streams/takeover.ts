import type { FastifyInstance } from 'fastify';
import type { ModelRoute } from '../config/model-routes.ts';
import type { Prompt } from '../llm/client.ts';
import type { AdmissionControl } from './admission.ts';
import type { GenerationStarter } from './start-generation.ts';
import type { StreamLog, Terminal } from './types.ts';

/** What becomes of a log whose producer has died: an end that says so, or, where the model's route says `continue`, its rest. */

const LOST: Terminal = {
  type: 'error',
  code: 'stream_lost',
  message: 'The replica that produced the answer is gone.',
  status: 502,
  retryable: true,
};

/** A longer question, as one with images, dies with its replica: others would hold it for nothing. */
const MAX_PROMPT_CHARS = 262_144;

/** The question as other replicas may need it; undefined where its answer is never gone on with. */
export function serializePrompt({ onMidStreamFailure }: ModelRoute, prompt: Prompt): string | undefined {
  if (onMidStreamFailure !== 'continue') return undefined;
  const question = JSON.stringify(prompt);
  return question.length > MAX_PROMPT_CHARS ? undefined : question;
}

type TakeoverHandler = (log: StreamLog, question: string | undefined) => void;

export function createTakeoverHandler(
  fastify: FastifyInstance,
  slots: AdmissionControl,
  { start }: GenerationStarter,
): TakeoverHandler {
  const { metrics, llm, log: logger } = fastify;

  const endAsLost = (log: StreamLog) => {
    metrics.takeovers.inc({ outcome: 'lost' });
    logger.warn({ stream: log.info.id }, 'the replica that produced a stream is gone');
    log.end(LOST);
  };

  const continueAnswer = async (log: StreamLog, question: string | undefined) => {
    const { id, model } = log.info;
    const partialAnswer = question === undefined ? undefined : await readText(log);
    if (partialAnswer === undefined || slots.reserve(id) !== 'taken') return endAsLost(log);
    try {
      start(log, llm.route(model), JSON.parse(question as string) as Prompt, { logger, partialAnswer });
      metrics.takeovers.inc({ outcome: 'continued' });
      logger.warn({ stream: id }, 'the replica that produced a stream is gone: this one goes on');
    } catch {
      slots.release(id);
      endAsLost(log);
    }
  };

  return (log, question) => {
    continueAnswer(log, question).catch((error: unknown) => {
      logger.error({ err: error }, 'taking over a stream failed');
      endAsLost(log);
    });
  };
}

/** All text so far; undefined where tools were called, since their answer cannot be gone on with. */
async function readText(log: StreamLog): Promise<string | undefined> {
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
