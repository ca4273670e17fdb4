import { type ClientRequest, request } from 'node:http';
import { Writable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import type { Test } from 'tap';
import type { UsageRecord } from '../plugins/usage/record.ts';
import { ProviderError } from '../providers/errors.ts';
import type { ChatRequest, Provider, StreamPart, Usage } from '../providers/types.ts';
import { type BuildOptions, bearer, serve, sha256, until, writeConfig } from './helper.ts';
import { captureUsage } from './usage/capture.ts';

/** A service whose questions, answers and ends a test plays one by one, and whose capacity it can count. */

export const LIMITS = {
  generations: 5,
  /** Calls of each provider. The model `m1` has one target, at the first provider; `m2` at the second. */
  provider: { m1: 3, m2: 4 },
  /** Limits of the two owners of each run. */
  a: { maxConcurrent: 3, tokensPerMinute: 1_000_000 },
  b: { maxConcurrent: 2, tokensPerMinute: 6_000 },
};
export type OwnerName = 'a' | 'b';
export type Model = 'm1' | 'm2' | 'm12';

/** A key without limits, which counts the capacity of the service. */
const COUNTER = 'counter';
/** Every question has this length, so that every prompt is estimated at the same number of tokens. */
const QUESTION_CHARS = 6;
const PROMPT_TOKENS = 2;
/** Charged for a question whose answer ends without a count: no question of the property limits its answer. */
const ESTIMATE = PROMPT_TOKENS + 1_024;
/** Outcomes of calls that the provider did not begin to answer. */
const UNANSWERED = ['upstream_rejected', 'upstream_failed', 'upstream_rate_limited'];

/** One running call of a provider. */
export interface Call {
  readonly question: string;
  readonly isOver: boolean;
  text(characters: number): void;
  finish(usage?: Usage): void;
  fail(error: ProviderError): void;
}

/** A provider whose calls the test plays. */
function playedProvider(name: string, calls: Call[]): Provider {
  return {
    name,
    async *stream({ messages }: ChatRequest, signal) {
      const queue: (StreamPart | ProviderError)[] = [];
      let wake = () => {};
      let isOver = false;
      const push = (step: StreamPart | ProviderError) => {
        queue.push(step);
        wake();
      };
      const call: Call = {
        question: String(messages.at(-1)?.content),
        get isOver() {
          return isOver || signal.aborted;
        },
        text: (characters) => push({ type: 'text', text: 'x'.repeat(characters) }),
        finish: (usage) => push({ type: 'finish', reason: 'stop', ...(usage && { usage }) }),
        fail: push,
      };
      calls.push(call);
      signal.addEventListener('abort', () => wake());
      try {
        for (;;) {
          signal.throwIfAborted();
          const step = queue.shift();
          if (step instanceof ProviderError) throw step;
          if (step !== undefined) yield step;
          if (step?.type === 'finish') return;
          if (queue.length > 0) continue;
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      } finally {
        isOver = true;
      }
    },
    async close() {},
  };
}

/** A question on its way, or its answer. */
export interface Asked {
  readonly question: string;
  readonly status: number | undefined;
  /** Id of its stream, if the response has begun to say it. */
  readonly stream: string | undefined;
  readonly isClosed: boolean;
  leave(): void;
}

/** One process of the service. */
export interface Service {
  readonly app: FastifyInstance;
  readonly url: string;
  readonly calls: Call[];
  /** Ends of streams that this process has logged. The test may empty the list. */
  readonly ends: Ended[];
  /** Usage records that this process has written. */
  readonly records: readonly UsageRecord[];
}

/** A line of the log, `stream ended`. */
interface Ended {
  readonly stream: string;
  readonly characters: number;
  readonly outcome: string;
  readonly usage?: Usage;
}

/** Returns the keys of one run, so that runs do not share limits. */
export const keyOf = (owner: OwnerName, run: number) => `${owner}${run}`;

export async function startService(t: Test, runs: number, { env, ...overrides }: BuildOptions = {}): Promise<Service> {
  const key = (name: string, limits = {}) => JSON.stringify({ name, sha256: sha256(name), ...limits });
  const numbers = Array.from({ length: runs }, (_, run) => run);
  const keys = [
    key(COUNTER),
    ...numbers.flatMap((run) => [key(keyOf('a', run), LIMITS.a), key(keyOf('b', run), LIMITS.b)]),
  ];
  const provider = (maxConcurrent: number) =>
    `{ type: openai, baseUrl: "http://127.0.0.1:1/v1", apiKeys: [k], maxConcurrent: ${maxConcurrent} }`;
  const yaml = `
keys: [${keys.join(',')}]
providers: { one: ${provider(LIMITS.provider.m1)}, two: ${provider(LIMITS.provider.m2)} }
models:
  - { name: m1, targets: [{ provider: one, model: m }] }
  - { name: m2, targets: [{ provider: two, model: m }] }
  - { name: m12, targets: [{ provider: one, model: m }, { provider: two, model: m }] }`;
  const calls: Call[] = [];
  const ends: Ended[] = [];
  const { usageTo, records } = captureUsage();
  const logTo = new Writable({
    write(line, _, done) {
      if (String(line).includes('"stream ended"')) ends.push(JSON.parse(String(line)));
      done();
    },
  });
  const { app, url } = await serve(t, {
    env: {
      CONFIG_FILE: writeConfig(t, yaml),
      DEFAULT_MODEL: 'm1',
      MAX_GENERATIONS: String(LIMITS.generations),
      STREAM_TTL_MS: '86400000',
      STREAM_FLUSH_MS: '0',
      TICKET_SECRET: 'x'.repeat(32),
      ...env,
    },
    providers: { one: playedProvider('one', calls), two: playedProvider('two', calls) },
    logTo,
    usageTo,
    ...overrides,
  });
  return { app, url, calls, ends, records };
}

/** Sends a request and returns immediately. */
export function send(
  url: string,
  question: string,
  options: { method?: string; headers?: Record<string, string>; body?: unknown } = {},
): Asked {
  const { method = 'POST', headers, body } = options;
  let status: number | undefined;
  let stream: string | undefined;
  let text = '';
  let isClosed = false;
  const outgoing: ClientRequest = request(url, {
    agent: false,
    method,
    headers: { ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
  });
  outgoing.on('error', () => {});
  outgoing.on('close', () => {
    isClosed = true;
  });
  outgoing.on('response', (response) => {
    status = response.statusCode;
    stream = response.headers['x-sluice-stream'] as string | undefined;
    response.on('error', () => {});
    response.on('data', (bytes) => {
      text += bytes;
    });
  });
  outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  return {
    question,
    get status() {
      return status;
    },
    get stream() {
      return stream ?? /"(?:id|stream)":"([\w-]{22})"/.exec(text)?.[1];
    },
    get isClosed() {
      return isClosed;
    },
    leave: () => void outgoing.destroy(),
  };
}

/** Pads the name of a question. */
export const questionOf = (name: string) => name.padStart(QUESTION_CHARS, '.');

/** Returns the tokens that the ended streams of an owner cost. */
export async function chargedTokens(services: readonly Service[], owner: string): Promise<number> {
  let sum = 0;
  const ended = services.flatMap(({ app, ends }) => ends.map((end) => ({ app, end })));
  for (const { app, end } of ended) {
    if ((await app.streams.find(end.stream, { owner: `key:${owner}` })) === undefined) continue;
    const isFree = end.characters === 0 && UNANSWERED.includes(end.outcome);
    const byLength = isFree ? 0 : Math.max(ESTIMATE, PROMPT_TOKENS + Math.ceil(end.characters / 4));
    sum += end.usage?.totalTokens ?? byLength;
  }
  return sum;
}

/** Starts a generation with a key. Returns undefined, or the message of the refusal. */
async function start(
  service: Service,
  key: string,
  model: Model,
  tokens = PROMPT_TOKENS + 1,
): Promise<string | undefined> {
  const response = await service.app.inject({
    method: 'POST',
    url: '/streams',
    headers: bearer(key),
    payload: { question: questionOf('probe'), model, maxTokens: tokens - PROMPT_TOKENS },
  });
  return response.statusCode === 201 ? undefined : (response.json().error?.message ?? String(response.statusCode));
}

/** Ends all running calls at no cost, and waits until they have ended. */
export async function endAll(services: readonly Service[], advance: () => void = () => {}): Promise<void> {
  await until(() => {
    for (const { calls } of services) {
      for (const call of calls.splice(0)) if (!call.isOver) call.finish({ totalTokens: 0 });
    }
    advance();
    return services.every(({ app }) => app.streams.active === 0);
  }, 'all generations have ended');
  // Redis has what the ends have sent.
  for (const { app } of services) await app.cluster?.connection.run((client) => client.ping());
}

/** Starts generations until one is refused. Returns their number and the refusal, and ends them. */
async function fill(
  services: readonly Service[],
  key: string,
  models: readonly Model[],
): Promise<{ started: number; refusal: string | undefined }> {
  let started = 0;
  let refusal: string | undefined;
  for (; started < 20; started += 1) {
    const service = services[started % services.length] as Service;
    refusal = await start(service, key, models[Math.min(started, models.length - 1)] as Model);
    if (refusal !== undefined) break;
  }
  await endAll(services);
  return { started, refusal };
}

/** Asserts that a process has its whole capacity: of each provider and over all. Not one slot more or less. */
export async function assertFreeCapacity(service: Service): Promise<void> {
  const expectFull = async (models: readonly Model[], count: number, message: RegExp) => {
    const { started, refusal } = await fill([service], COUNTER, models);
    if (started === count && message.test(refusal ?? '')) return;
    throw new Error(`${models}: ${started} generations instead of ${count}, then: ${refusal}`);
  };
  await expectFull(['m1'], LIMITS.provider.m1, /Every provider/);
  await expectFull(['m2'], LIMITS.provider.m2, /Every provider/);
  await expectFull(['m1', 'm1', 'm1', 'm2'], LIMITS.generations, /Too many answers are running/);
}

/** Asserts that all slots of an owner are free over all processes, and not one more. */
export async function assertFreeSlots(services: readonly Service[], owner: OwnerName, run: number): Promise<void> {
  const { started, refusal } = await fill(services, keyOf(owner, run), ['m2']);
  if (started === LIMITS[owner].maxConcurrent && /Too many of your answers/.test(refusal ?? '')) return;
  throw new Error(`${owner}: ${started} generations instead of ${LIMITS[owner].maxConcurrent}, then: ${refusal}`);
}

/** Asserts that exactly `charged` tokens of an owner are charged in this minute. */
export async function assertCharged(
  services: readonly Service[],
  owner: OwnerName,
  run: number,
  charged: number,
): Promise<void> {
  const [service] = services as [Service];
  const left = LIMITS[owner].tokensPerMinute - charged;
  const tryTokens = async (tokens: number) => {
    const refusal = await start(service, keyOf(owner, run), 'm2', tokens);
    await endAll(services);
    if (refusal !== undefined && !/tokens/.test(refusal)) throw new Error(`${owner}: ${refusal}`);
    return refusal === undefined;
  };
  const least = PROMPT_TOKENS + 1;
  const more = Math.max(left + 1, least);
  if (charged > 0 && (await tryTokens(more))) {
    throw new Error(`${owner}: less than ${charged} tokens are charged`);
  }
  if (left >= least && !(await tryTokens(left))) throw new Error(`${owner}: more than ${charged} tokens are charged`);
}

export { COUNTER };
