import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { bellaAt, until } from './helper.ts';
import { noNginx, startNginx } from './nginx.ts';
import { postJson } from './post-json.ts';
import { runServer, type ServerProcess } from './process.ts';
import { freePort, noRedis, type RedisServer, startRedis } from './redis.ts';
import { open } from './sse-client.ts';
import { numberedDeltas, type Script, startUpstream, type Upstream } from './upstream.ts';

/** Two replicas in processes of their own, and the nginx of `deploy/` in front. */
export interface Replicas {
  readonly upstream: Upstream;
  /** URL of the gateway. */
  readonly url: string;
  readonly replicas: ServerProcess[];
  /** Returns the log of the gateway. */
  gatewayLog(): string;
  /** Starts a replica again, on its old port, after its process has ended. */
  restart(index: number): Promise<void>;
}

/** The same, with the Redis that they share. */
export interface Cluster extends Replicas {
  readonly redis: RedisServer;
}

/** Reason to skip tests that need a cluster; false if they can run. */
export const noCluster: string | false = noRedis || noNginx;

/** Starts a cluster that asks an upstream with this script. */
export async function startCluster(
  t: Test,
  script: Script,
  env: Record<string, string> = {},
  redisArgs: readonly string[] = [],
): Promise<Cluster> {
  const redis = await startRedis(t, ...redisArgs);
  return { ...(await startReplicas(t, redis.url, script, env)), redis };
}

/** Starts replicas that share the Redis of an address. */
export async function startReplicas(
  t: Test,
  redisUrl: string,
  script: Script,
  env: Record<string, string> = {},
): Promise<Replicas> {
  const upstream = await startUpstream(t, script);
  const ports = [await freePort(), await freePort()];
  const envOf = (port: number) =>
    bellaAt(upstream.url, {
      PORT: String(port),
      REDIS_URL: redisUrl,
      TRUST_PROXY: '1',
      ...env,
    });
  const start = (port: number) => runServer(t, envOf(port));
  const replicas = await Promise.all(ports.map(start));
  const { url, log } = await startNginx(t, readFileSync('deploy/nginx/nginx.conf', 'utf8'), (text) =>
    ports
      .reduce((before, port, i) => before.replace(`sluice-${i + 1}:3000`, `127.0.0.1:${port}`), text)
      // The addresses are fixed, and the nginx of the machine may be too old for `resolve`.
      .replace(/ *(resolver|zone) .*\n/g, '')
      .replaceAll(' resolve ', ' '),
  );
  return {
    gatewayLog: log,
    upstream,
    url,
    replicas,
    async restart(index) {
      replicas[index] = await start(ports[index] as number);
    },
  };
}

/** Everything that a client with an EventSource has received, over all its connections. */
export interface Page {
  /** Text of all deltas, in order of arrival. */
  text: string;
  /** Ids of all events except `status`, in order of arrival. */
  readonly ids: string[];
  /** The `end` or `error` event; undefined until it arrives. */
  last: { type: string; code?: string; answer?: string; stream?: string } | undefined;
  /** As the last `start` or `status` event says. False if Redis lacks a part of what this page has received. */
  resumable: boolean;
  /** Resolves with the first `start` event. */
  readonly start: Promise<{ stream: string; url: string }>;
  /** Milliseconds from the end of each connection to the next event. */
  readonly gaps: number[];
  reconnects: number;
  /** Resolves when a reconnect is answered 204. */
  readonly closed: Promise<void>;
}

/** Reads like a browser's EventSource: reconnects with the last event id until the response is 204. */
export function readAsEventSource(url: string): Page {
  let onStart: (start: { stream: string; url: string }) => void = () => {};
  const start = new Promise<{ stream: string; url: string }>((resolve) => {
    onStart = resolve;
  });
  const read = async () => {
    let lastId: string | undefined;
    let retry = 1_000;
    let cutAt: number | undefined;
    for (;;) {
      const reading = await open(url, lastId ? { headers: { 'last-event-id': lastId } } : {}).catch(() => undefined);
      if (reading === undefined) {
        await sleep(retry);
        page.reconnects += 1;
        continue;
      }
      if (reading.response.statusCode === 204) return;
      if (reading.response.statusCode !== 200)
        throw new Error(`an EventSource does not reconnect after status ${reading.response.statusCode}`);
      let handled = 0;
      const handleEvents = () => {
        for (const event of reading.events.slice(handled)) {
          handled += 1;
          if (cutAt !== undefined) page.gaps.push(performance.now() - cutAt);
          cutAt = undefined;
          if (event.id) lastId = event.id;
          if (event.json.type !== 'status') page.ids.push(event.id);
          if (event.json.type === 'start') onStart(event.json);
          if (event.json.resumable !== undefined) page.resumable = event.json.resumable;
          if (event.json.type === 'delta') page.text += event.json.content;
          if (event.json.type === 'end' || event.json.type === 'error') page.last = event.json;
        }
      };
      reading.response.on('data', handleEvents);
      await reading.ended;
      handleEvents();
      retry = reading.retry ?? retry;
      cutAt ??= performance.now();
      await sleep(retry);
      page.reconnects += 1;
    }
  };
  const page: Page = {
    text: '',
    ids: [],
    last: undefined,
    resumable: true,
    start,
    gaps: [],
    reconnects: 0,
    closed: Promise.resolve(),
  };
  return Object.assign(page, { closed: read() });
}

/** Number of streams in a test that kills a replica under load. */
export const STREAMS = Number(process.env.STREAMS ?? 100);

/** Starts a stream on one replica and returns its path. */
export async function startStream(cluster: Replicas, index: number, question = 'q'): Promise<string> {
  const started = await postJson(`${cluster.replicas[index]?.url}/streams`, { question });
  return ((await started.json()) as { url: string }).url;
}

/**
 * Starts streams on one replica and reads them through the gateway. Waits until every page has some text and can
 * resume: on a busy machine a stream can be ahead of Redis, and the death of its replica then loses the rest.
 */
export async function readProducedBy(cluster: Replicas, index: number, count: number): Promise<Page[]> {
  const pages: Page[] = [];
  for (let i = 0; i < count; i++) pages.push(readAsEventSource(cluster.url + (await startStream(cluster, index))));
  await until(
    () => pages.every((page) => page.text.length > 10 && page.resumable),
    'every page has some text and can resume',
  );
  return pages;
}

/** Asserts that every page has received the answer of `numberedAnswer(count)` completely and once. */
export function assertComplete(t: Test, pages: readonly Page[], count: number): void {
  const answer = numberedDeltas(count).join('');
  for (const { last, text, reconnects } of pages) {
    if (text !== answer) t.comment(`${text.length} characters, ${reconnects} reconnects, then ${JSON.stringify(last)}`);
  }
  t.equal(
    pages.filter((page) => page.text === answer).length,
    pages.length,
    'the deltas of every page make the complete answer',
  );
  t.equal(
    pages.filter(({ last }) => last?.type === 'end' && last.answer === answer).length,
    pages.length,
    'every page gets the complete answer in its `end` event',
  );
  t.equal(pages.filter(({ ids }) => new Set(ids).size < ids.length).length, 0, 'no page gets an event twice');
}
