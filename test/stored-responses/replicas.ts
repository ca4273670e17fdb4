import type { FastifyInstance } from 'fastify';
import type { Test } from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import type { Stored, Stream, Terminal } from '../../plugins/streams/api.ts';
import { ProviderError } from '../../providers/errors.ts';
import type { Provider, StreamPart } from '../../providers/types.ts';
import { type BuildOptions, bellaAt, build, until } from '../helper.ts';
import type { RedisServer } from '../redis.ts';

/** Replicas of the service in this process, whose answers end when the test says so. */

/** End of an answer: parts that follow its first text, or an error. */
export type Ending = readonly StreamPart[] | Error;

export const finish = (reason: 'stop' | 'length' | 'content_filter' | 'other' | 'tool_calls'): Ending => [
  { type: 'text', text: ' end' },
  { type: 'finish', reason },
];
export const FAILURE: Ending = new ProviderError('upstream_failed', { reason: 'r', retryable: false });

export interface Asked {
  readonly id: string;
  readonly stream: Stream;
  /** Lets the answer end. */
  end(ending: Ending): void;
  /** Attaches a reader to the replica that was asked. Resolves with the end. */
  readonly ended: Promise<Terminal>;
}

export interface Replicas {
  readonly apps: readonly FastifyInstance[];
  /** Starts an answer whose first text is `start`. */
  ask(app: FastifyInstance, identity: Identity, stored?: Stored, model?: string): Promise<Asked>;
  /** Number of calls of the provider. */
  readonly calls: number;
}

/** Starts replicas; several need a Redis. */
export async function startReplicas(
  t: Test,
  count: number,
  { redis, env, ...options }: BuildOptions & { redis?: RedisServer } = {},
): Promise<Replicas> {
  const endings = new Map<string, (ending: Ending) => void>();
  let calls = 0;
  const provider: Provider = {
    name: 'bella',
    async *stream({ messages }, signal) {
      calls += 1;
      const name = String(messages.find(({ role }) => role === 'user')?.content);
      const ending = await new Promise<Ending>((resolve, reject) => {
        signal.addEventListener('abort', () => reject(signal.reason));
        endings.set(name, resolve);
      });
      yield { type: 'text', text: 'start' };
      if (ending instanceof Error) throw ending;
      yield* ending;
    },
    async close() {},
  };
  const apps = await Promise.all(
    Array.from({ length: count }, () =>
      build(t, {
        ...options,
        env: { ...bellaAt('http://127.0.0.1:9'), ...(redis && { REDIS_URL: redis.url }), ...env },
        providers: { bella: provider },
      }),
    ),
  );
  await Promise.all(apps.map((app) => app.ready()));
  await until(() => apps.every(({ cluster }) => cluster === undefined || cluster.connection.isAvailable), 'connected');
  let asked = 0;
  return {
    apps,
    get calls() {
      return calls;
    },
    async ask(app, identity, stored, model) {
      const name = `question ${asked++}`;
      const messages = [{ role: 'user', content: name } as const];
      const stream = await app.streams.start(
        { messages, model },
        { identity, logger: app.log, resumable: true, stored },
      );
      await until(() => endings.has(name), 'the provider was asked');
      return {
        id: stream.id,
        stream,
        end: (ending) => endings.get(name)?.(ending),
        get ended() {
          return endOf(stream);
        },
      };
    },
  };
}

async function endOf(stream: Stream): Promise<Terminal> {
  const reader = await stream.read(0);
  for (;;) {
    const terminal = (await reader?.next())?.terminal;
    if (terminal !== undefined) return terminal;
  }
}

/** Identities of a key, of two of its visitors, of two tickets, and of another key. */
export const CALLERS: readonly Identity[] = (() => {
  const a: Identity = { owner: 'key:a' };
  const ticket = (nonce: string): Identity => ({
    ...a,
    ticket: { nonce, expires: Date.now() + 60_000, questions: 10_000 },
  });
  const visitor = (name: string): Identity => ({ owner: `key:a#${name}`, holder: a });
  return [a, visitor('v'), visitor('w'), ticket('t'), ticket('u'), { owner: 'key:b' }];
})();

/** Returns true if a caller owns what another has started. Stated once more, apart from the code. */
export function owns(caller: number, starter: number): boolean {
  if (caller === starter) return true;
  return caller === 0 && starter < 5;
}
