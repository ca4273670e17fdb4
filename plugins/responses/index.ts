import fp from 'fastify-plugin';
import type { Identity } from '../auth/identity.ts';
import type { Config } from '../config/index.ts';
import type { AnswerArchive, EndedAnswer } from '../streams/answer-archive.ts';
import { isOwnedBy } from '../streams/ownership.ts';
import { createStoreErrors } from '../streams/store-errors.ts';
import type { StoredAnswer, StoredResponse, StoredResponses } from './api.ts';
import { createArchive } from './archive.ts';
import { MemoryResponses } from './memory-store.ts';
import { RedisResponses } from './redis-store.ts';
import { statusOf } from './status.ts';
import type { Found, ResponseStore } from './types.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly storedResponses: StoredResponses;
    /** Keeps the answers of stored streams; for `plugins/streams`. */
    readonly answerArchive: AnswerArchive;
  }
}

export interface ResponsesOptions {
  readonly settings: Omit<Config['responses'], 'webhook'>;
  /** Milliseconds for which an ended stream stays readable. */
  readonly streamTtlMs: number;
  /** Longest time in milliseconds that an answer may take. */
  longestAnswerMs(): number;
}

/** Ids of streams. Others are unknown without a question to Redis. */
const STREAM_ID = /^[\w-]{1,64}$/;

/** Adds `fastify.storedResponses`: questions and answers that outlive their streams. */
export default fp<ResponsesOptions>(
  async (fastify, { settings, streamTtlMs, longestAnswerMs }) => {
    const { clock, metrics, cluster, webhooks, apiError, log } = fastify;
    const { ttlMs, maxRequestChars, maxPerOwner, maxBytesPerOwner, maxTotalBytes } = settings;
    const limits = {
      ...{ ttlMs, maxPerOwner, maxBytesPerOwner },
      // After a takeover an answer may take its full time again. The rest covers the takeover itself.
      maxLogMs: () => 3 * longestAnswerMs(),
      onEvicted: (count: number) => metrics.responsesEvicted.inc(count),
    };
    const store: ResponseStore = cluster
      ? new RedisResponses({ ...limits, cluster, streamTtlMs })
      : new MemoryResponses({ ...limits, maxTotalBytes, clock, streamTtlMs });
    const { mapStoreErrors } = createStoreErrors({ apiError, metrics, log });
    fastify.addHook('onClose', () => store.close());

    /** Set by the store of logs. */
    let findUnwritten: (id: string) => EndedAnswer | undefined = () => undefined;
    /** Returns an answer that has ended here, although Redis does not accept its end. */
    const unwrittenAnswer = (id: string): StoredAnswer | undefined => {
      const ended = findUnwritten(id);
      return ended && { ...ended, endedAt: undefined, status: statusOf(ended.terminal) };
    };
    const findOwn = async (id: string, identity: Identity): Promise<Found | undefined> => {
      const found = STREAM_ID.test(id) ? await store.find(id) : undefined;
      return found && isOwnedBy(found.question, identity) ? found : undefined;
    };
    const find = async (id: string, identity: Identity): Promise<StoredResponse | undefined> => {
      // Redis may get the end after it was read.
      const unwritten = unwrittenAnswer(id);
      const found = await findOwn(id, identity);
      if (found === undefined) return undefined;
      const { owner, createdAt, request } = found.question;
      return { id, owner, createdAt, request, answer: (await found.readAnswer()) ?? unwritten };
    };
    const remove = async (id: string, identity: Identity): Promise<boolean> => {
      const found = await findOwn(id, identity);
      if (found !== undefined) await store.delete(id, found.question);
      return found !== undefined;
    };

    const storedResponses: StoredResponses = {
      ttlMs,
      check(request) {
        if (request.length <= maxRequestChars) return;
        const message = `The question is too long to be stored; at most ${maxRequestChars} characters are. Use store: false.`;
        throw apiError({ status: 413, code: 'invalid_request', message });
      },
      async save(id, { owner, ticket }, request) {
        await store.save(id, { owner, ticket: ticket?.nonce, createdAt: Date.now(), request });
      },
      find: (id, identity) => mapStoreErrors(find(id, identity)),
      delete: (id, identity) => mapStoreErrors(remove(id, identity)),
    };
    fastify.decorate('storedResponses', storedResponses);
    const setUnwritten: AnswerArchive['setUnwritten'] = (find) => {
      findUnwritten = find;
    };
    fastify.decorate('answerArchive', createArchive({ ttlMs, store, webhooks, setUnwritten }));
  },
  { name: 'responses', dependencies: ['clock', 'metrics', 'errors', 'redis', 'webhooks'] },
);
