import { randomBytes } from 'node:crypto';
import fp from 'fastify-plugin';
import { type Identity, mayUseModel } from '../auth/identity.ts';
import { applyTicketTerms, TicketRefusal } from '../auth/ticket-terms.ts';
import type { Config } from '../config/index.ts';
import type { ModelRoute } from '../config/model-routes.ts';
import type { ModelPrice } from '../config/price-file.ts';
import type { Reservation } from '../limits/reservation.ts';
import type { Prompt } from '../llm/client.ts';
import { AdmissionControl } from './admission.ts';
import type { AnswerArchive } from './answer-archive.ts';
import { createAnswerStates } from './answer-states.ts';
import type { Question, StartOptions, Stream, Streams } from './api.ts';
import { createStore } from './create-store.ts';
import { fingerprint } from './fingerprint.ts';
import { isOwnedBy, scopeToOwner } from './ownership.ts';
import { createPriceCheck } from './price-check.ts';
import { createReaders, readReaching } from './readers.ts';
import { createGenerationStarter } from './start-generation.ts';
import { createStoreErrors } from './store-errors.ts';
import { createTakeoverHandler, serializePrompt } from './takeover.ts';
import { SHUT_DOWN } from './terminals.ts';
import type { Idempotency, ReadableLog, StreamStore, WritableLog } from './types.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly streams: Streams;
  }
}

export interface StreamsOptions {
  /** All settings of streams. */
  readonly settings: Config['streams'];
  /** Most messages of one question. */
  readonly maxMessages: number;
  /** Most readers of one stream. */
  readonly maxReadersPerStream: number;
  /** Longest time in milliseconds that an answer may take. */
  longestAnswerMs(): number;
  /** Keeps the answers of stored streams beyond their logs. */
  readonly archive?: AnswerArchive | undefined;
  /** Replaces the configured store; for tests. */
  readonly store?: StreamStore | undefined;
}

/** Adds `fastify.streams`: starts generations and finds their streams. */
export default fp<StreamsOptions>(
  async (fastify, { settings, maxMessages, maxReadersPerStream, longestAnswerMs, archive, ...options }) => {
    const { clock, metrics, usage, auth, llm, limits, load, cluster, audit, log } = fastify;
    const store = options.store ?? createStore({ settings, longestAnswerMs, clock, metrics, cluster, archive });
    fastify.addHook('onClose', () => store.close());

    const admission = new AdmissionControl(settings.maxGenerations);
    const states = createAnswerStates({ ttlMs: settings.ttlMs, clock, cluster });
    const { maxChars } = settings;
    const startGeneration = createGenerationStarter({ clock, metrics, usage, llm, admission, states, maxChars });
    const { findCredential } = auth;
    store.onTakeover?.(
      createTakeoverHandler({ metrics, usage, llm, limits, log, admission, startGeneration, findCredential }),
    );
    const { apiError } = fastify;
    const attachReader = createReaders({ limits, metrics, apiError, maxPerStream: maxReadersPerStream });
    const findPrices = createPriceCheck({ llm, apiError, invalidRequest: fastify.invalidRequest });
    const { overloaded, mapStoreErrors } = createStoreErrors({ apiError, metrics, log });

    /** Finds the stream of the idempotency key, or admits the question and creates its log. */
    const findOrCreate = async (
      route: ModelRoute,
      prompt: Prompt,
      { identity, resumable, ...options }: StartOptions,
      prices: readonly ModelPrice[] | undefined,
      idempotency?: Idempotency,
    ): Promise<{ existing: ReadableLog } | { created: WritableLog; reservation: Reservation }> => {
      const existing = idempotency && (await store.openByKey(idempotency));
      // An existing stream is not a new question, so it needs no admission.
      if (existing) return { existing };
      if (load.isOverloaded(identity.owner)) throw overloaded('pressure');
      if (!llm.hasCapacity(route)) throw overloaded('saturated');
      const { owner, ticket, credential } = identity;
      const chat = options.chat && scopeToOwner(identity, options.chat);
      const id = randomBytes(16).toString('base64url');
      const { context, stored } = options;
      const graceMs = resumable ? (stored === 'background' ? longestAnswerMs() : settings.graceMs) : 0;
      const marks = { owner, mark: credential?.mark, ticket: ticket?.nonce };
      const info = { id, model: route.name, graceMs, ...marks, chat, context, stored };
      const serializedPrompt = store.shared ? serializePrompt(route, prompt) : undefined;
      const slot = admission.reserve(id);
      if (slot !== 'reserved') throw overloaded(slot);
      let reservation: Reservation | undefined;
      const releaseAll = () => {
        admission.release(id);
        reservation?.settle({ totalTokens: 0 }, 0, () => 0);
      };
      try {
        reservation = await limits.reserveGeneration(identity, prompt, prices, idempotency?.key ?? id);
        const { estimate, charges } = reservation;
        const result = await store.create({ ...info, estimate, charges }, idempotency, serializedPrompt);
        if (result.created) {
          if (stored !== undefined) archive?.onCreated(info);
          return { created: result.log, reservation };
        }
        releaseAll();
        return { existing: result.log };
      } catch (error) {
        releaseAll();
        throw error;
      }
    };

    /** Returns the question with what the caller's ticket sets. @throws 403 for one that it does not allow */
    const withTicketTerms = (question: Question, { ticket }: Identity): Question => {
      if (ticket === undefined) return question;
      try {
        return applyTicketTerms(question, ticket);
      } catch (error) {
        throw error instanceof TicketRefusal ? fastify.httpErrors.forbidden(error.message) : error;
      }
    };

    const toStream = (log: ReadableLog, identity: Identity): Stream => ({
      id: log.info.id,
      caller: identity,
      model: log.info.model,
      context: log.info.context,
      get resumable() {
        return log.resumable;
      },
      stop: () => mapStoreErrors(log.stop()),
      read: (position, reaches = position) =>
        mapStoreErrors(attachReader(log, identity, () => readReaching(log, position, reaches))),
      readAppends: (after) => mapStoreErrors(attachReader(log, identity, () => log.readAppends(after))),
    });

    const streams: Streams = {
      shared: store.shared === true,
      get active() {
        return admission.active;
      },

      async start(asked, options) {
        const { identity, logger } = options;
        const { credential } = identity;
        // The body of the request may have arrived long after its key was checked.
        if (credential?.isRevoked)
          throw fastify.httpErrors.unauthorized('This key or token was revoked or has expired.');
        if (asked.messages.length > maxMessages) {
          throw fastify.httpErrors.badRequest(`Too many messages; at most ${maxMessages} are allowed.`);
        }
        const { model, ...question } = withTicketTerms(asked, identity);
        // Nobody could read the answer.
        limits.claimReader(identity)();
        const route = llm.route(model, identity);
        if (!mayUseModel(identity, route.name)) {
          audit.modelRefused(logger, identity.owner, route.label);
          throw fastify.httpErrors.forbidden('This key may not use this model.');
        }
        const unsupported = llm.unsupported(route, question);
        if (unsupported !== undefined) {
          // The name may be a field that a client has made up.
          const name = /^[\w-]{1,40}$/.test(unsupported) ? unsupported : undefined;
          const message = `The model ${route.name} does not support ${name ?? 'an option'}; leave it out, or use another model.`;
          throw fastify.invalidRequest(message, 400, name);
        }
        const prices = findPrices(route, question, identity);
        const key = options.key && scopeToOwner(identity, options.key);
        const idempotency = key === undefined ? undefined : { key, fingerprint: fingerprint(route.name, question) };
        const prompt = states.isMissing(question.messages)
          ? { ...question, messages: await states.restore(identity.owner, question.messages) }
          : question;
        const found = await mapStoreErrors(findOrCreate(route, prompt, options, prices, idempotency));
        if ('existing' in found) return toStream(found.existing, identity);
        const { created, reservation } = found;
        const releasePrompt = options.bodyClaim?.hold();
        startGeneration({ log: created, route, prompt, logger, reservation, credential, releasePrompt });
        return toStream(created, identity);
      },

      async find(id, identity) {
        const found = await mapStoreErrors(store.open(id));
        return found && isOwnedBy(found.info, identity) ? toStream(found, identity) : undefined;
      },

      async findByChat(chat, identity) {
        const found = await mapStoreErrors(store.openByChat(scopeToOwner(identity, chat)));
        return found && isOwnedBy(found.info, identity) ? toStream(found, identity) : undefined;
      },

      async findByKey(key, identity) {
        const found = await mapStoreErrors(store.openByKey({ key: scopeToOwner(identity, key) }));
        return found && isOwnedBy(found.info, identity) ? toStream(found, identity) : undefined;
      },

      close: () => admission.close(),
      idle: () => admission.idle(),
      async endAll() {
        await store.handOver?.();
        admission.endAll(SHUT_DOWN);
      },
    };
    fastify.decorate('streams', streams);
  },
  {
    name: 'streams',
    dependencies: ['audit', 'clock', 'metrics', 'usage', 'errors', 'auth', 'redis', 'load', 'limits', 'llm'],
  },
);
