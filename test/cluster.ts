import { readFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { bellaAt, until } from './helper.ts';
import { noNginx, startNginx } from './nginx.ts';
import { type Running, runServer } from './process.ts';
import { freePort, noRedis, type RedisServer, startRedis } from './redis.ts';
import { open } from './sse-client.ts';
import { DONE, type Script, STOP, sse, startUpstream, text, type Upstream } from './upstream.ts';

/** Two services as processes, a Redis, and the gateway of `deploy/` in front. */
export interface Cluster {
  readonly redis: RedisServer;
  readonly upstream: Upstream;
  /** Of the gateway. */
  readonly url: string;
  readonly replicas: Running[];
  /** What the gateway has logged. */
  gatewayLog(): string;
  /** Starts a replica in the place of one that has ended. */
  restart(index: number): Promise<void>;
}

export const noCluster: string | false = noRedis || noNginx;

export async function startCluster(t: Test, script: Script, env: Record<string, string> = {}): Promise<Cluster> {
  const redis = await startRedis(t);
  const upstream = await startUpstream(t, script);
  const ports = [await freePort(), await freePort()];
  const envOf = (port: number) =>
    bellaAt(upstream.url, {
      PORT: String(port),
      REDIS_URL: redis.url,
      TRUST_PROXY: '1',
      MAX_EVENT_LOOP_DELAY_MS: '0',
      ...env,
    });
  const start = (port: number) => runServer(t, envOf(port));
  const replicas = await Promise.all(ports.map(start));
  const { url, log } = await startNginx(t, readFileSync('deploy/nginx/nginx.conf', 'utf8'), (text) =>
    ports
      .reduce((before, port, i) => before.replace(`sluice-${i + 1}:3000`, `127.0.0.1:${port}`), text)
      // Addresses do not change here, and this nginx may be older.
      .replace(/ *(resolver|zone) .*\n/g, '')
      .replaceAll(' resolve ', ' '),
  );
  return {
    gatewayLog: log,
    redis,
    upstream,
    url,
    replicas,
    async restart(index) {
      replicas[index] = await start(ports[index] as number);
    },
  };
}

/** What stands on a page, and how it came there. */
export interface Page {
  /** Of all deltas, in their order. */
  text: string;
  readonly ids: string[];
  /** The last event; undefined while there is none. */
  last: { type: string; code?: string; answer?: string; stream?: string } | undefined;
  readonly start: Promise<{ stream: string; url: string }>;
  /** Milliseconds from each cut to the next event. */
  readonly gaps: number[];
  reconnects: number;
  readonly over: Promise<void>;
}

/** Reads as a browser's EventSource does: comes back, with the last id, until it is told 204. */
export function browse(url: string): Page {
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
      if (reading.response.statusCode !== 200) throw new Error(`given up for good: ${reading.response.statusCode}`);
      let seen = 0;
      const take = () => {
        for (const event of reading.events.slice(seen)) {
          seen += 1;
          if (cutAt !== undefined) page.gaps.push(performance.now() - cutAt);
          cutAt = undefined;
          if (event.id) lastId = event.id;
          if (event.json.type !== 'status') page.ids.push(event.id);
          if (event.json.type === 'start') onStart(event.json);
          if (event.json.type === 'delta') page.text += event.json.content;
          if (event.json.type === 'end' || event.json.type === 'error') page.last = event.json;
        }
      };
      reading.response.on('data', take);
      await reading.ended;
      take();
      retry = reading.retry ?? retry;
      cutAt ??= performance.now();
      await sleep(retry);
      page.reconnects += 1;
    }
  };
  const page: Page = { text: '', ids: [], last: undefined, start, gaps: [], reconnects: 0, over: Promise.resolve() };
  return Object.assign(page, { over: read() });
}

/** Streams in a test that kills a replica under load. */
export const STREAMS = Number(process.env.STREAMS ?? 200);

/** The text of an answer of `numberedAnswer`, piece by piece. */
export const deltas = (count: number) => Array.from({ length: count }, (_, i) => `${i}你 `);

/** Pieces that `numberedAnswer` writes before it waits for `release`. */
const BEFORE_RELEASE = 20;

/**
 * Writes a number every `ms`, and continues where the prompt holds a partial answer. After the first numbers,
 * the answer waits for `release`, so that no answer ends before the test has done its harm.
 */
export const numberedAnswer =
  (count: number, ms: number, release?: Promise<unknown>) =>
  async ({ body, response }: { body: string; response: ServerResponse }) => {
    const { messages } = JSON.parse(body) as { messages: { role: string; content: string }[] };
    const partial = messages.find(({ role }) => role === 'assistant')?.content ?? '';
    sse(response);
    for (const [i, delta] of deltas(count).entries()) {
      if (i < partial.split(' ').length - 1) continue;
      if (i === BEFORE_RELEASE) await release;
      if (response.destroyed) return;
      response.write(text(delta));
      await sleep(ms);
    }
    response.end(STOP + DONE);
  };

/** Starts a stream at one replica, and returns its path. */
export async function startStream(cluster: Cluster, index: number): Promise<string> {
  const started = await fetch(`${cluster.replicas[index]?.url}/streams`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ question: 'q' }),
  });
  return ((await started.json()) as { url: string }).url;
}

/** Starts streams at one replica, and reads them through the gateway until each page has some text. */
export async function readProducedBy(cluster: Cluster, index: number, count: number): Promise<Page[]> {
  const pages: Page[] = [];
  for (let i = 0; i < count; i++) pages.push(browse(cluster.url + (await startStream(cluster, index))));
  await until(() => pages.every((page) => page.text.length > 10), 'every page has some text');
  return pages;
}

/** Asserts that every page has the whole answer of `numberedAnswer(count)`, once. */
export function assertComplete(t: Test, pages: readonly Page[], count: number): void {
  const answer = deltas(count).join('');
  for (const { last, text, reconnects } of pages) {
    if (text !== answer) t.comment(`${text.length} units, ${reconnects} connections, then ${JSON.stringify(last)}`);
  }
  t.equal(pages.filter((page) => page.text === answer).length, pages.length, 'every text is whole, byte for byte');
  t.equal(pages.filter(({ last }) => last?.type === 'end' && last.answer === answer).length, pages.length);
  t.equal(pages.filter(({ ids }) => new Set(ids).size < ids.length).length, 0, 'no event came twice');
}
