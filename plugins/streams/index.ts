import { randomBytes } from 'node:crypto';
import type { FastifyBaseLogger } from 'fastify';
import fp from 'fastify-plugin';
import { ProviderError } from '../../providers/errors.ts';
import type { Prompt } from '../llm/client.ts';
import type { Target } from '../llm/model-routes.ts';
import { type Generation, startGeneration } from './generation.ts';
import { createMemoryLog } from './memory-log.ts';
import type { LogReader, Terminal } from './types.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly streams: Streams;
  }
}

export interface Question extends Prompt {
  /** Public name; the default model where absent. */
  readonly model?: string | undefined;
}

export interface Stream {
  /** At least 128 random bits: whoever knows it may read. */
  readonly id: string;
  /** The public name of the model. */
  readonly model: string;
  /** Attaches a reader at a position. */
  read(position: number): LogReader;
}

export interface Streams {
  /** Generations running now. */
  readonly active: number;
  /**
   * Asks the model once and logs the answer. The call ends when its last reader leaves.
   * @throws 404 for a model that is not configured, 503 while draining or full
   */
  start(question: Question, log: FastifyBaseLogger): Stream;
  /** Refuses new questions from now on. */
  refuse(): void;
  /** Resolves once nothing runs any more. */
  idle(): Promise<void>;
  /** Ends all that still runs, with an error that readers see. */
  endAll(): void;
}

const ABANDONED: Terminal = {
  type: 'error',
  code: 'abandoned',
  message: 'Nobody was reading any more.',
  retryable: true,
};
const SHUT_DOWN: Terminal = {
  type: 'error',
  code: 'stream_lost',
  message: 'The service was stopped before the answer was complete.',
  retryable: true,
};

/** `fastify.streams`: questions become generations, and generations are read as streams. */
export default fp(
  async (fastify) => {
    const { clock, metrics, llm, config } = fastify;
    const { maxStreams, maxBytes, highWaterMark, flushMs } = config.streams;
    const running = new Set<Generation>();
    let refusing = false;
    let waiting: (() => void)[] = [];

    const admit = () => {
      if (refusing) throw fastify.httpErrors.serviceUnavailable('The service is shutting down; ask again.');
      if (running.size >= maxStreams)
        throw fastify.httpErrors.serviceUnavailable('Too many answers are running; ask again later.');
    };

    const start = ({ model, ...prompt }: Question, logger: FastifyBaseLogger): Stream => {
      const route = llm.route(model);
      admit();
      const id = randomBytes(16).toString('base64url');
      const log = createMemoryLog({ highWaterMark, flushMs, clock });
      const started = clock.now();
      let target: Target = route.targets[0];
      let firstPartAt: number | undefined;

      const generation = startGeneration({
        log,
        maxLength: maxBytes,
        ask: (signal) => llm.ask(route, prompt, signal, (asked) => (target = asked)),
        onFirstPart: () => (firstPartAt = clock.now()),
        onEnd(terminal, fault) {
          running.delete(generation);
          metrics.generationsActive.dec();
          const seconds = (clock.now() - started) / 1000;
          const outcome = terminal.type === 'end' ? 'ok' : terminal.code;
          metrics.generationSeconds.observe({ provider: target.provider, outcome }, seconds);
          if (outcome === 'internal') logger.error({ err: fault }, 'internal error');
          logger.info(
            {
              stream: id,
              model: route.name,
              provider: target.provider,
              upstreamModel: target.model,
              outcome,
              ...(terminal.type === 'end' && { finishReason: terminal.finishReason, usage: terminal.usage }),
              ...(fault instanceof ProviderError && { reason: fault.reason, upstreamStatus: fault.upstreamStatus }),
              ...(firstPartAt !== undefined && { firstTokenMs: Math.round(firstPartAt - started) }),
              durationMs: Math.round(seconds * 1000),
              characters: log.length,
            },
            'stream ended',
          );
          if (running.size > 0) return;
          for (const resolve of waiting) resolve();
          waiting = [];
        },
      });
      running.add(generation);
      metrics.generationsActive.inc();
      log.onAudience(() => {
        if (log.readers === 0) generation.abort(ABANDONED);
      });
      return { id, model: route.name, read: log.read };
    };

    const streams: Streams = {
      get active() {
        return running.size;
      },
      start,
      refuse() {
        refusing = true;
      },
      idle: () => (running.size === 0 ? Promise.resolve() : new Promise((resolve) => waiting.push(resolve))),
      endAll() {
        for (const generation of running) generation.abort(SHUT_DOWN);
      },
    };
    fastify.decorate('streams', streams);
  },
  { name: 'streams', dependencies: ['config', 'clock', 'metrics', 'errors', 'llm'] },
);
