import t from 'tap';
import { browse, type Cluster, noCluster, numberedAnswer, type Page, startCluster } from '../cluster.ts';
import { until } from '../helper.ts';

/** A producer that stops for longer than its lease must not write when it comes back. */

t.test('a producer that stops until its streams are taken over is fenced', { skip: noCluster }, async (t) => {
  const cluster = await startCluster(t, numberedAnswer(1_000, 60));
  const { child } = cluster.replicas[0] as Cluster['replicas'][number];
  const here: Page[] = [];
  const there: Page[] = [];
  for (let i = 0; i < 10; i++) {
    const page = browse(`${cluster.replicas[0]?.url}/ask/stream?question=q`);
    here.push(page);
    there.push(browse(`${cluster.replicas[1]?.url}${(await page.start).url}`));
  }
  const pages = [...here, ...there];
  await until(() => pages.every((page) => page.text.length > 10), 'every page has some text');
  child.kill('SIGSTOP');
  await until(() => there.every(({ last }) => last !== undefined), 'the other replica has taken over every stream');
  child.kill('SIGCONT');
  await until(() => pages.every(({ last }) => last !== undefined), 'every page has its last event');
  t.equal(pages.filter(({ last }) => last?.code === 'stream_lost').length, 20, 'readers of both replicas are told');
  await Promise.all(cluster.upstream.calls.map(({ closed }) => closed));
  for (const log of await cluster.redis.client.keys('*:log:*')) {
    const entries = await cluster.redis.client.xrange(log, '-', '+');
    t.equal(entries.filter(([, fields]) => fields[0] === 'e').length, 1, 'one end');
    t.equal(entries.at(-1)?.[1][0], 'e', 'and nothing behind it');
  }
  t.equal(cluster.upstream.calls.length, 10);
  await Promise.all(pages.map(({ over }) => over));
});
