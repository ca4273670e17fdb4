import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { bellaAt } from './helper.ts';
import { noNginx, startNginx } from './nginx.ts';
import { type Running, runServer } from './process.ts';
import { freePort, noRedis, type RedisServer, startRedis } from './redis.ts';
import { open } from './sse-client.ts';
import { type Script, startUpstream, type Upstream } from './upstream.ts';

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
