import Fastify, { type FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import type { Test } from 'tap';
import audit from '../../plugins/audit/index.ts';
import type { Identity } from '../../plugins/auth/identity.ts';
import { type Credential, type Credentials, createCredentials } from '../../plugins/auth/revocation.ts';
import clockPlugin from '../../plugins/clock.ts';
import { loadConfig } from '../../plugins/config/load.ts';
import type { ModelRoute } from '../../plugins/config/model-routes.ts';
import errors from '../../plugins/http/errors.ts';
import limits from '../../plugins/limits/index.ts';
import type { AnswerSink, Prompt } from '../../plugins/llm/client.ts';
import metrics from '../../plugins/metrics/index.ts';
import redis from '../../plugins/redis/index.ts';
import type { Question, StartOptions, Stream } from '../../plugins/streams/api.ts';
import streams, { type StreamsOptions } from '../../plugins/streams/index.ts';
import type { StreamStore, Terminal } from '../../plugins/streams/types.ts';
import usage from '../../plugins/usage/index.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';

const UNBOUNDED = { total: Number.POSITIVE_INFINITY, perOwner: Number.POSITIVE_INFINITY };

/** `fastify.streams` with its limits and its store, a manual clock, and models that the test plays itself. */
export interface BareStreams {
  readonly app: FastifyInstance;
  readonly clock: ManualClock;
  /** The calls of models, in order. */
  readonly calls: ModelCall[];
  /** Accepts the keys with these names, and revokes all others. */
  accept(...names: string[]): (name: string) => Credential;
  /** State of the models and of the process, which the test may change. */
  readonly world: { isOverloaded: boolean; hasCapacity: boolean };
  start(identity: Identity, question?: Partial<Question>, options?: Partial<StartOptions>): Promise<Stream>;
  /** Returns true if `tokens` more tokens would be accepted. Leaves the limits as they are. */
  fits(identity: Identity, tokens: number): Promise<boolean>;
}

/** One call of a model. */
export interface ModelCall {
  readonly route: ModelRoute;
  readonly prompt: Prompt;
  readonly sink: AnswerSink;
  readonly signal: AbortSignal;
}

export const MAX_GENERATIONS = 4;
export const MAX_MESSAGES = 3;
export const GRACE_MS = 15_000;

const MODELS = ['small', 'big'];

export interface BareStreamsOptions extends Partial<StreamsOptions['settings']> {
  readonly store?: StreamStore;
}

export async function bareStreams(t: Test, { store, ...settings }: BareStreamsOptions = {}): Promise<BareStreams> {
  const clock = manualClock();
  const calls: ModelCall[] = [];
  const world = { isOverloaded: false, hasCapacity: true };
  const app = Fastify();
  const load = async (fastify: FastifyInstance) => {
    fastify.decorate('load', { isOverloaded: () => world.isOverloaded } as FastifyInstance['load']);
  };
  const credentials: Credentials = createCredentials({ clock, now: clock.now, log: app.log });
  const auth = async (fastify: FastifyInstance) => {
    fastify.decorate('auth', { findCredential: () => undefined } as Partial<
      FastifyInstance['auth']
    > as FastifyInstance['auth']);
  };
  const llm = async (fastify: FastifyInstance) => {
    fastify.decorate('llm', {
      route(model = 'small') {
        if (!MODELS.includes(model)) throw fastify.httpErrors.notFound('Unknown model.');
        return routeOf(model);
      },
      hasCapacity: () => world.hasCapacity,
      unsupported: () => undefined,
      generate: (route, prompt, sink, signal) => void calls.push({ route, prompt, sink, signal }),
    } as Partial<FastifyInstance['llm']> as FastifyInstance['llm']);
  };
  await app.register(clockPlugin, { clock });
  await app.register(audit);
  await app.register(metrics, { hasRedis: false });
  await app.register(errors);
  await app.register(redis, { redis: undefined });
  await app.register(limits, { expectedReplicas: 1, streamTtlMs: 300_000, prompts: UNBOUNDED, readers: UNBOUNDED });
  await app.register(fp(auth, { name: 'auth' }));
  await app.register(fp(load, { name: 'load' }));
  await app.register(fp(llm, { name: 'llm' }));
  await app.register(usage, { settings: { to: 'none', maxLength: 1 }, output: process.stdout });
  await app.register(streams, {
    settings: {
      ...loadConfig({}).streams,
      maxGenerations: MAX_GENERATIONS,
      graceMs: GRACE_MS,
      flushMs: 0,
      ...settings,
    },
    maxMessages: MAX_MESSAGES,
    maxReadersPerStream: 1_000,
    longestAnswerMs: () => 600_000,
    store,
  });
  await app.ready();
  t.teardown(() => app.close());

  return {
    app,
    clock,
    calls,
    accept(...names) {
      const expires = Number.POSITIVE_INFINITY;
      const prepared = credentials.prepare(names.map((name) => ({ id: name, mark: name, name, expires })));
      prepared.apply();
      return prepared.get;
    },
    world,
    start: (identity, question = {}, options = {}) =>
      app.streams.start(
        { messages: [{ role: 'user', content: 'ab' }], ...question },
        { identity, logger: app.log, resumable: true, ...options },
      ),
    async fits(identity, tokens) {
      const prompt = { messages: [{ role: 'user' as const, content: 'ab' }], maxTokens: tokens - 1 };
      try {
        (await app.limits.reserveGeneration(identity, prompt)).settle({ totalTokens: 0 }, 0);
        return true;
      } catch {
        return false;
      }
    },
  };
}

function routeOf(name: string): ModelRoute {
  return {
    name,
    label: name,
    targets: [{ provider: 'p', model: name }],
    deadlines: { firstTokenMs: 60_000, idleMs: 30_000, thinkingMs: 300_000, totalMs: 600_000 },
    onMidStreamFailure: 'error',
    continuePrompt: '',
  };
}

/** Finishes the n-th call of a model, counted from 0, at no cost. */
export function finish({ calls }: BareStreams, n: number): void {
  void calls[n]?.sink.onPart({ type: 'finish', reason: 'stop', usage: { totalTokens: 0 } });
}

/** Reads a stream to its end, and returns its text and its terminal. */
export async function readAll(stream: Stream): Promise<{ text: string; terminal: Terminal }> {
  const reader = await stream.read(0);
  if (reader === undefined) throw new Error('no such position');
  let text = '';
  for (;;) {
    const { parts, terminal } = await reader.next();
    for (const { part } of parts) if (part.type === 'text') text += part.text;
    if (terminal === undefined) continue;
    reader.close();
    return { text, terminal };
  }
}

/** Fills all slots of the process. Returns how many were free, and ends these generations again. */
export async function countFreeSlots(service: BareStreams): Promise<number> {
  const before = service.calls.length;
  const identity: Identity = { owner: 'slot counter' };
  let free = 0;
  for (; free <= MAX_GENERATIONS; free += 1) {
    const started = await service.start(identity).catch(() => undefined);
    if (started === undefined) break;
  }
  for (let n = before; n < service.calls.length; n += 1) finish(service, n);
  return free;
}
