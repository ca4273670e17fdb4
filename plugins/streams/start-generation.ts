import type { FastifyBaseLogger, FastifyInstance } from 'fastify';
import type { ModelRoute } from '../config/model-routes.ts';
import type { Grant } from '../limits/index.ts';
import type { Prompt } from '../llm/client.ts';
import type { Slots } from './admission.ts';
import { startGeneration } from './generation.ts';
import { createReport } from './report.ts';
import type { StreamLog } from './types.ts';

export interface Answering {
  /** Asks the model, into a log that holds its slot already. With `said` it goes on behind that text. */
  answer(log: StreamLog, route: ModelRoute, prompt: Prompt, more: AnswerOptions): void;
}

export interface AnswerOptions {
  readonly logger: FastifyBaseLogger;
  readonly grant?: Grant;
  readonly said?: string;
}

export function createAnswering({ clock, metrics, llm, config }: FastifyInstance, slots: Slots): Answering {
  return {
    answer(log, route, prompt, { logger, grant, said }) {
      const { id } = log.info;
      const report = createReport(log, route, { clock, metrics, logger });
      const generation = startGeneration({
        log,
        clock,
        maxLength: config.streams.maxChars,
        ask: (sink, signal) => llm.ask(route, prompt, { ...sink, onTarget: report.onTarget }, signal, said),
        onFirstPart: report.onFirstPart,
        onEnd(terminal, fault) {
          slots.release(id);
          grant?.end(terminal.type === 'end' ? terminal.usage : undefined, log.length);
          report.onEnd(terminal, fault);
        },
      });
      slots.fill(id, generation);
    },
  };
}
