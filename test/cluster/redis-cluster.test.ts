import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { noCluster, type Page, readAsEventSource, startReplicas, startStream } from '../cluster.ts';
import { until } from '../helper.ts';
import type { RedisServer } from '../redis.ts';
import { startRedisCluster } from '../redis-cluster.ts';
import { DONE, numberedDeltas, type Script, STOP, sse, text } from '../upstream.ts';

/**
 * Streams in a Redis Cluster of three primaries and three replicas, behind the gateway of `deploy/`: slots move, a
 * primary is killed and fails over, a replica of the service is killed.
 */

const STREAMS = Number(process.env.STREAMS ?? 12);
const GAP_MS = 60;
const MAX_DELTAS = 10_000;

t.test(
  'in a Redis Cluster every stream ends whole or as lost, with one call for each question',
  { skip: noCluster, timeout: 150_000 },
  async (t) => {
    const redis = await startRedisCluster(t, { hasReplicas: true });
    const isAnswering = { value: true };
    t.teardown(() => {
      isAnswering.value = false;
    });
    /** Deltas that were sent, by question. */
    const sent = new Map<string, number>();
    const script: Script = async ({ body, response }) => {
      const { messages } = JSON.parse(body) as { messages: { content: string }[] };
      const question = messages.at(-1)?.content as string;
      sse(response);
      const deltas = numberedDeltas(MAX_DELTAS);
      for (let i = 0; isAnswering.value && !response.destroyed; i++) {
        response.write(text(deltas[i] as string));
        sent.set(question, i + 1);
        await sleep(GAP_MS);
      }
      response.end(STOP + DONE);
    };
    const service = await startReplicas(t, redis.url, script);
    const pages: Page[] = [];
    for (let i = 0; i < STREAMS; i++) {
      pages.push(readAsEventSource(service.url + (await startStream(service, i % 2, `q${i}`))));
    }
    const ids = await Promise.all(pages.map(async ({ start }) => (await start).stream));
    /** Waits until each page has grown and could resume then. On a busy machine, some stream may be behind at any time. */
    const grow = async (what: string, some = pages) => {
      const waiting = new Map(some.map((page) => [page, page.text.length]));
      const isDone = () => {
        for (const [page, before] of waiting) {
          if (page.text.length > before + 20 && page.resumable) waiting.delete(page);
        }
        return waiting.size === 0;
      };
      await until(isDone, what, 60_000);
    };
    await grow('every page has some text and can resume');

    const keys = await redis.keys('sluice:*');
    const [leases, names] = [
      keys.filter((key) => key.includes(':{replica}:')),
      keys.filter((key) => key.includes(':producing:')),
    ];
    t.same([leases.length, names.length], [2, 2], 'two replicas have a lease and the names of their streams');
    const channels = leases.map((key) => key.replace('{replica}', 'to'));
    const logs = ids.slice(0, 4).map((id) => `sluice:log:{${id}}`);
    for (const key of [leases[0] as string, ...channels, ...logs]) {
      const slot = await redis.slotOf(key);
      const from = await redis.primaryOf(slot);
      await redis.moveSlot(slot, redis.primaries.find((node) => node !== from) as RedisServer);
    }
    await grow('every stream goes on after slots have moved');

    // It has the leases, a third of the streams, and perhaps channels.
    const primary = await redis.primaryOf(await redis.slotOf(leases[0] as string));
    await primary.stop();
    await until(
      async () => (await redis.primaryOf(await redis.slotOf(leases[0] as string))) !== primary,
      'a replica of the primary has its slots',
    );
    await grow('every stream goes on and can be resumed after the failover');

    service.replicas[1]?.child.kill('SIGKILL');
    const kept = pages.filter((_, i) => i % 2 === 0);
    const killed = pages.filter((_, i) => i % 2 === 1);
    await until(
      () => killed.every(({ last }) => last !== undefined),
      'readers of the killed replica get an end',
      60_000,
    );
    await grow('streams of the other replica go on', kept);
    isAnswering.value = false;
    await Promise.all(pages.map(({ closed }) => closed));

    for (const [i, page] of pages.entries()) {
      const count = page.text.split(' ').length - 1;
      const isPrefix = page.text === numberedDeltas(count).join('');
      if (!isPrefix) t.comment(`${i}: ${page.text.slice(0, 200)}`);
      t.ok(isPrefix && new Set(page.ids).size === page.ids.length, 'each token comes once and in order');
      if (i % 2 === 1) t.equal(page.last?.code, 'stream_lost', 'the stream of the killed replica is lost');
      else t.same([page.last?.answer, count], [page.text, sent.get(`q${i}`)], 'the stream of the other one is whole');
    }
    t.equal(service.upstream.calls.length, STREAMS, 'one call for each question');

    await until(
      async () => (await redis.keys('sluice:producing:*')).length === 0,
      'no stream is left as running, nor the replica that was killed',
    );
    const entries = await Promise.all(
      ids.map(async (id) => (await redis.client.xrange(`sluice:log:{${id}}`, '-', '+')).map(([, fields]) => fields[0])),
    );
    t.ok(
      entries.every((kinds) => kinds.filter((kind) => kind === 'e').length === 1 && kinds.at(-1) === 'e'),
      'every log in Redis has one terminal, at its end',
    );
    // -1 is a key without an end; one that has expired meanwhile is -2.
    for (const key of await redis.keys('sluice:*')) t.not(await redis.client.pttl(key), -1, `${key} expires`);
  },
);
