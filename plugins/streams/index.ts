import { randomBytes } from 'node:crypto';
import fp from 'fastify-plugin';
import type { Identity } from '../auth/identity.ts';
import type { ModelRoute } from '../config/model-routes.ts';
import type { Grant } from '../limits/index.ts';
import type { Prompt } from '../llm/client.ts';
import { Slots } from './admission.ts';
import type { StartOptions, Stream, Streams } from './api.ts';
import { createStore } from './create-store.ts';
import { fingerprint } from './fingerprint.ts';
import { createAnswering } from './start-generation.ts';
import { createRefusals } from './store-errors.ts';
import { bequest, createHeir } from './takeover.ts';
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

    const slots = new Slots(maxGenerations);
    const answering = createAnswering(fastify, slots);
    store.onInherited?.(createHeir(fastify, slots, answering));

    const { overloaded, asked } = createRefusals(fastify);

    const findOrCreate = async (
      route: ModelRoute,
      prompt: Prompt,
      options: StartOptions,
      idempotency?: Idempotency,
    ) => {
      const existing = idempotency && (await store.openByKey(idempotency));
      if (existing) return { log: existing };
      // A stream that a key has found is no new one, and asks no leave.
      if (fastify.load.isTooHigh()) throw overloaded('pressure');
      if (!llm.hasRoom(route)) throw overloaded('saturated');
      const { identity, resumable } = options;
      const { owner, ticket } = identity;
      const chat = options.chat && scoped(identity, options.chat);
      const id = randomBytes(16).toString('base64url');
      const question = store.shared ? bequest(route, prompt) : undefined;
      const info = { id, model: route.name, graceMs: resumable ? graceMs : 0, owner, ticket, chat };
      const slot = slots.take(id);
      if (slot !== 'taken') throw overloaded(slot);
      let grant: Grant | undefined;
      const giveBack = () => {
        slots.release(id);
        grant?.end({ totalTokens: 0 }, 0);
      };
      try {
        grant = await limits.takeAnswer(identity, prompt);
        const { log, created } = await store.create(info, idempotency, question);
        if (created) return { log, grant };
        giveBack();
        return { log };
      } catch (error) {
        giveBack();
        throw error;
      }
    };

    const counted = (reader: LogReader): LogReader => {
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

    const streamOf = (log: StreamLog): Stream => ({
      id: log.info.id,
      owner: log.info.owner,
      model: log.info.model,
      get resumable() {
        return log.resumable;
      },
      stop: () => asked(log.stop()),
      read: (position) =>
        asked(
          log.read(position).then(counted, (error: unknown) => {
            if (error instanceof PositionUnknown) return undefined;
            throw error;
          }),
        ),
    });

    const streams: Streams = {
      shared: store.shared === true,
      get active() {
        return slots.taken;
      },

      async start({ model, ...prompt }, options) {
        const { logger, identity } = options;
        const most = config.limits.messages;
        if (prompt.messages.length > most) throw fastify.httpErrors.badRequest(`More than ${most} messages.`);
        const route = llm.route(model);
        if (identity.models?.includes(route.name) === false) {
          throw fastify.httpErrors.forbidden('This key may not use this model.');
        }
        const key = options.key && scoped(identity, options.key);
        const idempotency = key === undefined ? undefined : { key, fingerprint: fingerprint(route.name, prompt) };
        const { log, grant } = await asked(findOrCreate(route, prompt, options, idempotency));
        if (grant === undefined) return streamOf(log);

        answering.answer(log, route, prompt, { logger, grant });
        return streamOf(log);
      },

      async find(id, identity) {
        const log = await asked(store.open(id));
        return log && isTheirs(log.info, identity) ? streamOf(log) : undefined;
      },

      async findByChat(chat, identity) {
        const log = await asked(store.openByChat(scoped(identity, chat)));
        return log && streamOf(log);
      },

      refuse: () => slots.refuse(),
      idle: () => slots.idle(),
      endAll: () => slots.endAll(SHUT_DOWN),
    };
    fastify.decorate('streams', streams);
  },
  { name: 'streams', dependencies: ['config', 'clock', 'metrics', 'errors', 'redis', 'load', 'limits', 'llm'] },
);

/** What clients make up is theirs alone: two may think of the same. */
function scoped({ owner }: Identity, name: string): string {
  return `${owner}\n${name}`;
}

/** Another's stream is as unknown as one that never was. */
function isTheirs({ owner, ticket }: StreamInfo, identity: Identity): boolean {
  return owner === identity.owner && (identity.ticket === undefined || ticket === identity.ticket);
}
