import { randomBytes } from 'node:crypto';
import fp from 'fastify-plugin';
import type { Identity } from '../auth/identity.ts';
import type { ModelRoute } from '../config/model-routes.ts';
import type { Reservation } from '../limits/index.ts';
import type { Prompt } from '../llm/client.ts';
import { AdmissionControl } from './admission.ts';
import type { StartOptions, Stream, Streams } from './api.ts';
import { createStore } from './create-store.ts';
import { fingerprint } from './fingerprint.ts';
import { createGenerationStarter } from './start-generation.ts';
import { createStoreErrors } from './store-errors.ts';
import { createTakeoverHandler, serializePrompt } from './takeover.ts';
import {
  type Idempotency,
  type LogReader,
  PositionUnknown,
  type StreamInfo,
  type StreamLog,
  type StreamStore,
  type Terminal,
} from './types.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly streams: Streams;
  }
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
    const { llm, limits, config, metrics } = fastify;
    const { maxGenerations, graceMs } = config.streams;
    const store = options.store ?? createStore(fastify);
    fastify.addHook('onClose', () => store.close());

    const slots = new AdmissionControl(maxGenerations);
    const generationStarter = createGenerationStarter(fastify, slots);
    store.onTakeover?.(createTakeoverHandler(fastify, slots, generationStarter));

    const { overloaded, mapStoreErrors } = createStoreErrors(fastify);

    const findOrCreate = async (
      route: ModelRoute,
      prompt: Prompt,
      options: StartOptions,
      idempotency?: Idempotency,
    ) => {
      const existing = idempotency && (await store.openByKey(idempotency));
      if (existing) return { log: existing };
      // A stream that a key has found is no new one, and asks no leave.
      if (fastify.load.isOverloaded()) throw overloaded('pressure');
      if (!llm.hasCapacity(route)) throw overloaded('saturated');
      const { identity, resumable } = options;
      const { owner, ticket } = identity;
      const chat = options.chat && scopeToOwner(identity, options.chat);
      const id = randomBytes(16).toString('base64url');
      const question = store.shared ? serializePrompt(route, prompt) : undefined;
      const info = { id, model: route.name, graceMs: resumable ? graceMs : 0, owner, ticket, chat };
      const slot = slots.reserve(id);
      if (slot !== 'taken') throw overloaded(slot);
      let grant: Reservation | undefined;
      const releaseAll = () => {
        slots.release(id);
        grant?.settle({ totalTokens: 0 }, 0);
      };
      try {
        grant = await limits.reserveGeneration(identity, prompt);
        const { log, created } = await store.create(info, idempotency, question);
        if (created) return { log, grant };
        releaseAll();
        return { log };
      } catch (error) {
        releaseAll();
        throw error;
      }
    };

    const countReader = (reader: LogReader): LogReader => {
      let isOpen = true;
      metrics.readers.inc();
      return {
        next: () => reader.next(),
        close() {
          if (isOpen) metrics.readers.dec();
          isOpen = false;
          reader.close();
        },
      };
    };

    const toStream = (log: StreamLog): Stream => ({
      id: log.info.id,
      owner: log.info.owner,
      model: log.info.model,
      get resumable() {
        return log.resumable;
      },
      stop: () => mapStoreErrors(log.stop()),
      read: (position) =>
        mapStoreErrors(
          log.read(position).then(countReader, (error: unknown) => {
            if (error instanceof PositionUnknown) return undefined;
            throw error;
          }),
        ),
    });

    const streams: Streams = {
      shared: store.shared === true,
      get active() {
        return slots.active;
      },

      async start({ model, ...prompt }, options) {
        const { logger, identity } = options;
        const most = config.limits.messages;
        if (prompt.messages.length > most) throw fastify.httpErrors.badRequest(`More than ${most} messages.`);
        const route = llm.route(model);
        if (identity.models?.includes(route.name) === false) {
          throw fastify.httpErrors.forbidden('This key may not use this model.');
        }
        const key = options.key && scopeToOwner(identity, options.key);
        const idempotency = key === undefined ? undefined : { key, fingerprint: fingerprint(route.name, prompt) };
        const { log, grant } = await mapStoreErrors(findOrCreate(route, prompt, options, idempotency));
        if (grant === undefined) return toStream(log);

        generationStarter.start(log, route, prompt, { logger, reservation: grant });
        return toStream(log);
      },

      async find(id, identity) {
        const log = await mapStoreErrors(store.open(id));
        return log && isOwnedBy(log.info, identity) ? toStream(log) : undefined;
      },

      async findByChat(chat, identity) {
        const log = await mapStoreErrors(store.openByChat(scopeToOwner(identity, chat)));
        return log && toStream(log);
      },

      close: () => slots.close(),
      idle: () => slots.idle(),
      endAll: () => slots.endAll(SHUT_DOWN),
    };
    fastify.decorate('streams', streams);
  },
  { name: 'streams', dependencies: ['config', 'clock', 'metrics', 'errors', 'redis', 'load', 'limits', 'llm'] },
);

/** What clients make up is theirs alone: two may think of the same. */
function scopeToOwner({ owner }: Identity, name: string): string {
  return `${owner}\n${name}`;
}

/** Another's stream is as unknown as one that never was. */
function isOwnedBy({ owner, ticket }: StreamInfo, identity: Identity): boolean {
  return owner === identity.owner && (identity.ticket === undefined || ticket === identity.ticket);
}
