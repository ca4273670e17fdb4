import { randomBytes } from 'node:crypto';
import type { FastifyBaseLogger } from 'fastify';
import fp from 'fastify-plugin';
import type { Prompt } from '../llm/client.ts';
import type { ModelRoute } from '../llm/model-routes.ts';
import { fingerprint } from './fingerprint.ts';
import { startGeneration } from './generation.ts';
import { MemoryStore } from './memory-store.ts';
import { createRefusals } from './refusals.ts';
import { createReport } from './report.ts';
import { Slots } from './slots.ts';
import {
  type Idempotency,
  type LogReader,
  PositionUnknown,
  type StreamLog,
  type StreamStore,
  type Terminal,
} from './types.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly streams: Streams;
  }
}

export interface Question extends Prompt {
  /** Public name; the default model where absent. */
  readonly model?: string | undefined;
}

export interface StartOptions {
  readonly logger: FastifyBaseLogger;
  /** The same key and question give the same stream for as long as it is kept. */
  readonly key?: string | undefined;
  /** Whether the client can come back; one that cannot does not pay for a grace time. */
  readonly resumable: boolean;
  /** The conversation that it belongs to, by the client's own id. */
  readonly chat?: string | undefined;
}

export interface Stream {
  readonly id: string;
  /** The public name of the model. */
  readonly model: string;
  readonly resumable: boolean;
  /** Attaches a reader; undefined for a position that does not exist. */
  read(position: number): Promise<LogReader | undefined>;
  /** Ends the generation now. Idempotent. */
  stop(): Promise<void>;
}

export interface Streams {
  /** Generations running in this process, and those about to start. */
  readonly active: number;
  /**
   * Asks the model once and logs the answer, or finds the stream that the key stands for.
   * @throws 404 for a model that is not configured, 409 for a key that stands for another question,
   *   503 with `retryAfterMs` while draining, full, or when the store cannot be asked
   */
  start(question: Question, options: StartOptions): Promise<Stream>;
  /**
   * A stream that runs or is still kept.
   * @throws 503 with `retryAfterMs` when the store cannot be asked
   */
  find(id: string): Promise<Stream | undefined>;
  /** The newest stream of a conversation, if it still runs; else as `find`. */
  findByChat(chat: string): Promise<Stream | undefined>;
  /** Refuses new questions from now on. */
  refuse(): void;
  /** Resolves once nothing runs any more. */
  idle(): Promise<void>;
  /** Ends all that still runs, with an error that readers see. */
  endAll(): void;
}

const SHUT_DOWN: Terminal = {
  type: 'error',
  code: 'stream_lost',
  message: 'The service was stopped before the answer was complete.',
  status: 502,
  retryable: true,
};

/** `fastify.streams`: questions become generations, and generations are read as streams. */
export default fp<{ store?: StreamStore | undefined }>(
  async (fastify, options) => {
    const { clock, metrics, llm, config } = fastify;
    const { maxStreams, maxBytes, graceMs } = config.streams;
    const onEvicted = () => metrics.streamsEvicted.inc();
    const store = options.store ?? new MemoryStore({ ...config.streams, clock, onEvicted });
    fastify.addHook('onClose', () => store.close());

    const slots = new Slots(maxStreams);

    const { overloaded, asked } = createRefusals(fastify);

    const findOrCreate = async (route: ModelRoute, options: StartOptions, idempotency?: Idempotency) => {
      const existing = idempotency && (await store.openByKey(idempotency));
      if (existing) return { log: existing, created: false };
      // A stream that a key has found is no new one, and asks no leave.
      if (fastify.isUnderPressure()) throw overloaded('pressure');
      if (!llm.hasRoom(route)) throw overloaded('saturated');
      const { resumable, chat } = options;
      const id = randomBytes(16).toString('base64url');
      const info = { id, model: route.name, graceMs: resumable ? graceMs : 0, chat };
      const slot = slots.take(id);
      if (slot !== 'taken') throw overloaded(slot);
      try {
        const made = await store.create(info, idempotency);
        if (!made.created) slots.release(info.id);
        return made;
      } catch (error) {
        slots.release(info.id);
        throw error;
      }
    };

    const streamOf = (log: StreamLog): Stream => ({
      id: log.info.id,
      model: log.info.model,
      resumable: log.info.graceMs > 0,
      stop: () => asked(log.stop()),
      read: (position) =>
        asked(
          log.read(position).catch((error: unknown) => {
            if (error instanceof PositionUnknown) return undefined;
            throw error;
          }),
        ),
    });

    const streams: Streams = {
      get active() {
        return slots.taken;
      },

      async start({ model, ...prompt }, options) {
        const { logger, key } = options;
        const route = llm.route(model);
        const idempotency = key === undefined ? undefined : { key, fingerprint: fingerprint(route.name, prompt) };
        const { log, created } = await asked(findOrCreate(route, options, idempotency));
        if (!created) return streamOf(log);

        const { id } = log.info;
        const report = createReport(log, route, { clock, metrics, logger });
        const generation = startGeneration({
          log,
          clock,
          maxLength: maxBytes,
          ask: (sink, signal) => llm.ask(route, prompt, { ...sink, onTarget: report.onTarget }, signal),
          onFirstPart: report.onFirstPart,
          onEnd(terminal, fault) {
            slots.release(id);
            report.onEnd(terminal, fault);
          },
        });
        slots.fill(id, generation);
        return streamOf(log);
      },

      async find(id) {
        const log = await asked(store.open(id));
        return log && streamOf(log);
      },

      async findByChat(chat) {
        const log = await asked(store.openByChat(chat));
        return log && streamOf(log);
      },

      refuse: () => slots.refuse(),
      idle: () => slots.idle(),
      endAll: () => slots.endAll(SHUT_DOWN),
    };
    fastify.decorate('streams', streams);
  },
  { name: 'streams', dependencies: ['config', 'clock', 'metrics', 'errors', 'pressure', 'llm'] },
);
