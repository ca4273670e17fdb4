import type { FastifyBaseLogger, FastifyInstance } from 'fastify';
import type { ModelRoute } from '../config/model-routes.ts';
import type { Reservation } from '../limits/index.ts';
import type { Prompt } from '../llm/client.ts';
import type { AdmissionControl } from './admission.ts';
import { runGeneration } from './generation.ts';
import { createReport } from './report.ts';
import type { StreamLog } from './types.ts';

export interface GenerationStarter {
  /** Asks the model, into a log that holds its slot already. With `said` it goes on behind that text. */
  start(log: StreamLog, route: ModelRoute, prompt: Prompt, more: GenerationStartOptions): void;
}

export interface GenerationStartOptions {
  readonly logger: FastifyBaseLogger;
  readonly reservation?: Reservation;
  readonly partialAnswer?: string;
}

export function createGenerationStarter(
  { clock, metrics, llm, config }: FastifyInstance,
  slots: AdmissionControl,
): GenerationStarter {
  return {
    start(log, route, prompt, { logger, reservation, partialAnswer }) {
      const { id } = log.info;
      const report = createReport(log, route, { clock, metrics, logger });
      const generation = runGeneration({
        log,
        clock,
        maxLength: config.streams.maxChars,
        generate: (sink, signal) =>
          llm.generate(route, prompt, { ...sink, onTarget: report.onTarget }, signal, partialAnswer),
        onFirstPart: report.onFirstPart,
        onEnd(terminal, fault) {
          slots.release(id);
          reservation?.settle(terminal.type === 'end' ? terminal.usage : undefined, log.length);
          report.onEnd(terminal, fault);
        },
      });
      slots.attach(id, generation);
    },
  };
}
