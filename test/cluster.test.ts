import { writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { launch, noBrowser } from './browser.ts';
import { browse, type Cluster, noCluster, type Page, startCluster } from './cluster.ts';
import { until } from './helper.ts';
import { DONE, STOP, sse, text } from './upstream.ts';

/** Replicas that die and are replaced, behind the gateway of `deploy/`, while people read. */

const STREAMS = Number(process.env.STREAMS ?? 200);
const deltas = (count: number) => Array.from({ length: count }, (_, i) => `${i}你 `);

/** Plays numbers, one every `ms`; goes on where the question holds an answer so far. */
const counting =
  (count: number, ms: number) =>
  async ({ body, response }: { body: string; response: ServerResponse }) => {
    const { messages } = JSON.parse(body) as { messages: { role: string; content: string }[] };
    const said = messages.find(({ role }) => role === 'assistant')?.content ?? '';
    sse(response);
    for (const delta of deltas(count).slice(said.split(' ').length - 1)) {
      if (response.destroyed) return;
      response.write(text(delta));
      await sleep(ms);
    }
    response.end(STOP + DONE);
  };

const p99 = (values: readonly number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length * 0.99)] ?? 0;

/** Starts streams at one replica, and reads them through the gateway. */
async function readProducedBy(cluster: Cluster, index: number, count: number): Promise<Page[]> {
  const { url } = cluster.replicas[index] as { url: string };
  const pages: Page[] = [];
  for (let i = 0; i < count; i++) {
    const started = await fetch(`${url}/streams`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ question: 'q' }),
    });
    pages.push(browse(cluster.url + ((await started.json()) as { url: string }).url));
  }
  await until(() => pages.every((page) => page.text.length > 10), 'every page has some text', 20_000);
  return pages;
}

function whole(t: Test, pages: readonly Page[], count: number): void {
  const answer = deltas(count).join('');
  for (const { last, text, reconnects } of pages) {
    if (text !== answer) t.comment(`${text.length} units, ${reconnects} connections, then ${JSON.stringify(last)}`);
  }
  t.equal(pages.filter((page) => page.text === answer).length, pages.length, 'every text is whole, byte for byte');
  t.equal(pages.filter(({ last }) => last?.type === 'end' && last.answer === answer).length, pages.length);
  t.equal(pages.filter(({ ids }) => new Set(ids).size < ids.length).length, 0, 'nothing came twice');
}

t.test('behind the gateway', { skip: noCluster, timeout: 120_000 }, async (t) => {
  t.jobs = 4;

  t.test('kill -9 of the replica that serves: all resume on the other', async (t) => {
    const cluster = await startCluster(t, counting(100, 60));
    const pages = await readProducedBy(cluster, 0, STREAMS);
    cluster.replicas[1]?.child.kill('SIGKILL');
    await Promise.all(pages.map(({ over }) => over));
    whole(t, pages, 100);
    const moved = pages.filter(({ gaps }) => gaps.length > 0);
    t.ok(moved.length >= STREAMS / 4, `${moved.length} of ${STREAMS} had to move`);
    t.comment(`from the cut to the next event, p99: ${Math.round(p99(moved.map(({ gaps }) => gaps[0] as number)))} ms`);
    t.equal(cluster.upstream.calls.length, STREAMS, 'one upstream call each');
  });

  t.test('kill -9 of the replica that produces: all that was logged, then an error, and no second call', async (t) => {
    const cluster = await startCluster(t, counting(1_000, 60));
    const pages = await readProducedBy(cluster, 0, STREAMS);
    const killed = performance.now();
    cluster.replicas[0]?.child.kill('SIGKILL');
    await until(() => pages.every(({ last }) => last !== undefined), 'every page has its last event', 15_000);
    const took = performance.now() - killed;
    t.ok(took < 6_000, `all told ${Math.round(took)} ms after it`);
    t.equal(pages.filter(({ last }) => last?.code === 'stream_lost').length, STREAMS);
    const answer = deltas(1_000).join('');
    t.ok(
      pages.every((page) => answer.startsWith(page.text)),
      'what came before is a prefix',
    );
    await sleep(500);
    t.equal(cluster.upstream.calls.length, STREAMS, 'nothing is asked again');
    await Promise.all(pages.map(({ over }) => over));
  });

  t.test('the same with `onMidStreamFailure: continue`: one other replica goes on', async (t) => {
    const file = join(t.testdir(), 'sluice.yaml');
    writeFileSync(
      file,
      'models: [{ name: steady, targets: [{ provider: bella, model: gpt-4o }], onMidStreamFailure: continue }]\n',
    );
    const cluster = await startCluster(t, counting(150, 60), { CONFIG_FILE: file, DEFAULT_MODEL: 'steady' });
    const pages = await readProducedBy(cluster, 0, 40);
    cluster.replicas[0]?.child.kill('SIGKILL');
    await Promise.all(pages.map(({ over }) => over));
    whole(t, pages, 150);
    t.equal(cluster.upstream.calls.length, 80, 'each was asked for its rest once');
  });

  t.test('a producer that is stopped for ten seconds, and comes back: fenced', async (t) => {
    const cluster = await startCluster(t, counting(1_000, 60));
    const { child } = cluster.replicas[0] as Cluster['replicas'][number];
    const pages: Page[] = [];
    for (let i = 0; i < 10; i++) {
      const page = browse(`${cluster.replicas[0]?.url}/ask/stream?question=q`);
      pages.push(page, browse(`${cluster.replicas[1]?.url}${(await page.start).url}`));
    }
    await until(() => pages.every((page) => page.text.length > 10), 'every page has some text', 20_000);
    child.kill('SIGSTOP');
    await sleep(10_000);
    child.kill('SIGCONT');
    await until(() => pages.every(({ last }) => last !== undefined), 'every page has its last event', 8_000);
    t.equal(pages.filter(({ last }) => last?.code === 'stream_lost').length, 20, 'whoever read at either replica');
    await Promise.all(cluster.upstream.calls.map(({ closed }) => closed));
    for (const log of await cluster.redis.client.keys('*:log:*')) {
      const entries = await cluster.redis.client.xrange(log, '-', '+');
      t.equal(entries.filter(([, fields]) => fields[0] === 'e').length, 1, 'one end');
      t.equal(entries.at(-1)?.[1][0], 'e', 'and nothing behind it');
    }
    t.equal(cluster.upstream.calls.length, 10);
    await Promise.all(pages.map(({ over }) => over));
  });

  t.test('a rolling restart under load: none lost, none twice, none asked twice', async (t) => {
    const cluster = await startCluster(t, counting(60, 60), { DRAIN_MS: '1000' });
    const pages: Page[] = [];
    let asking = true;
    const asked = (async () => {
      while (asking) {
        pages.push(browse(`${cluster.url}/ask/stream?question=q`));
        await sleep(40);
      }
    })();
    for (const index of [0, 1]) {
      await sleep(2_000);
      const { child, exit } = cluster.replicas[index] as Cluster['replicas'][number];
      child.kill('SIGTERM');
      t.equal(await exit, 0, 'it ends by itself');
      await cluster.restart(index);
    }
    asking = false;
    await asked;
    await Promise.all(pages.map(({ over }) => over));
    whole(t, pages, 60);
    t.ok(pages.filter(({ reconnects }) => reconnects > 1).length > 10, 'some had to move');
    t.equal(cluster.upstream.calls.length, pages.length, `${pages.length} asked, each once`);
    t.match(cluster.gatewayLog(), /GET \/ask\/stream/);
    t.notMatch(cluster.gatewayLog(), /question/, 'no query in the log of the gateway');
  });

  t.test('an answer that takes longer than the drain is finished for readers elsewhere', async (t) => {
    const cluster = await startCluster(t, counting(130, 60), { DRAIN_MS: '500' });
    const [page] = (await readProducedBy(cluster, 0, 1)) as [Page];
    const { child, exit } = cluster.replicas[0] as Cluster['replicas'][number];
    child.kill('SIGTERM');
    t.equal(await exit, 0);
    await page.over;
    whole(t, [page], 130);
    t.equal(cluster.upstream.calls.length, 1);
  });

  t.test('Chromium: kill -9 of the replica that serves, and of both', { skip: noBrowser }, async (t) => {
    const cluster = await startCluster(t, counting(200, 60));
    const browser = await launch(t);
    const { url } = cluster.replicas[0] as { url: string };
    const started = await fetch(`${url}/streams`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ question: 'q' }),
    });
    const stream = (await started.json()) as { url: string };
    const tabs = await Promise.all(
      Array.from({ length: 4 }, async () => {
        const tab = await browser.newPage();
        await tab.goto(`${cluster.url}/livez`);
        await tab.evaluate((path) => {
          const seen = { text: '', ends: 0 };
          Object.assign(globalThis, { seen });
          new EventSource(path).onmessage = ({ data }) => {
            const event = JSON.parse(data);
            if (event.type === 'delta') seen.text += event.content;
            if (event.type === 'end') seen.ends += 1;
          };
        }, stream.url);
        return tab;
      }),
    );
    await sleep(1_500);
    cluster.replicas[1]?.child.kill('SIGKILL');
    const answer = deltas(200).join('');
    for (const tab of tabs) {
      await tab.waitForFunction(
        () => (globalThis as unknown as { seen: { ends: number } }).seen.ends === 1,
        undefined,
        { timeout: 30_000 },
      );
      t.equal(await tab.evaluate(() => (globalThis as unknown as { seen: { text: string } }).seen.text), answer);
    }
    t.equal(cluster.upstream.calls.length, 1);
    cluster.replicas[0]?.child.kill('SIGKILL');
    const away = await fetch(`${cluster.url}${stream.url}`, { headers: { accept: 'text/event-stream' } });
    t.match([away.status, await away.text()], [200, /^retry: \d+\n\n$/], 'an EventSource never sees a 5xx');
    t.equal((await fetch(`${cluster.url}/streams`, { method: 'POST' })).status, 503, 'others do');
  });
});
