import type { FastifyInstance } from 'fastify';
import type { ModelRoute } from '../config/model-routes.ts';
import type { Prompt } from '../llm/client.ts';
import type { Slots } from './admission.ts';
import type { Answering } from './start-generation.ts';
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
const LONGEST = 262_144;

/** The question as other replicas may need it; undefined where its answer is never gone on with. */
export function bequest({ onMidStreamFailure }: ModelRoute, prompt: Prompt): string | undefined {
  if (onMidStreamFailure !== 'continue') return undefined;
  const question = JSON.stringify(prompt);
  return question.length > LONGEST ? undefined : question;
}

type Heir = (log: StreamLog, question: string | undefined) => void;

export function createHeir(fastify: FastifyInstance, slots: Slots, { answer }: Answering): Heir {
  const { metrics, llm, log: logger } = fastify;

  const lose = (log: StreamLog) => {
    metrics.takeovers.inc({ outcome: 'lost' });
    logger.warn({ stream: log.info.id }, 'the replica that produced a stream is gone');
    log.end(LOST);
  };

  const goOn = async (log: StreamLog, question: string | undefined) => {
    const { id, model } = log.info;
    const said = question === undefined ? undefined : await textOf(log);
    if (said === undefined || slots.take(id) !== 'taken') return lose(log);
    try {
      answer(log, llm.route(model), JSON.parse(question as string) as Prompt, { logger, said });
      metrics.takeovers.inc({ outcome: 'continued' });
      logger.warn({ stream: id }, 'the replica that produced a stream is gone: this one goes on');
    } catch {
      slots.release(id);
      lose(log);
    }
  };

  return (log, question) => {
    goOn(log, question).catch((error: unknown) => {
      logger.error({ err: error }, 'taking over a stream failed');
      lose(log);
    });
  };
}

/** All text so far; undefined where tools were called, since their answer cannot be gone on with. */
async function textOf(log: StreamLog): Promise<string | undefined> {
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
