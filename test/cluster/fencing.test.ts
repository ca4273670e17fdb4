import t from 'tap';
import { type Cluster, noCluster, type Page, readAsEventSource, startCluster } from '../cluster.ts';
import { until } from '../helper.ts';
import { numberedAnswer } from '../upstream.ts';

/** A producer that is stopped for longer than its lease must not write to its logs when it continues. */

t.test('a stopped producer cannot write to streams that were taken over from it', { skip: noCluster }, async (t) => {
  const cluster = await startCluster(t, numberedAnswer(1_000, 60));
  const { child } = cluster.replicas[0] as Cluster['replicas'][number];
  const local: Page[] = [];
  const remote: Page[] = [];
  for (let i = 0; i < 10; i++) {
    const page = readAsEventSource(`${cluster.replicas[0]?.url}/ask/stream?question=q`);
    local.push(page);
    remote.push(readAsEventSource(`${cluster.replicas[1]?.url}${(await page.start).url}`));
  }
  const pages = [...local, ...remote];
  await until(() => pages.every((page) => page.text.length > 10), 'every page has some text');
  child.kill('SIGSTOP');
  await until(() => remote.every(({ last }) => last !== undefined), 'the other replica has taken over every stream');
  child.kill('SIGCONT');
  await until(() => pages.every(({ last }) => last !== undefined), 'every page has its last event');
  const lost = pages.filter(({ last }) => last?.code === 'stream_lost');
  t.equal(lost.length, 20, 'readers of both replicas get `stream_lost`');
  await Promise.all(cluster.upstream.calls.map(({ closed }) => closed));
  const logs = await cluster.redis.client.keys('*:log:*');
  t.equal(logs.length, 10, 'Redis has the log of every stream');
  for (const log of logs) {
    const entries = await cluster.redis.client.xrange(log, '-', '+');
    t.equal(entries.filter(([, fields]) => fields[0] === 'e').length, 1, 'the log has one terminal entry');
    t.equal(entries.at(-1)?.[1][0], 'e', 'the terminal is the last entry of the log');
  }
  t.equal(cluster.upstream.calls.length, 10, 'the upstream is not called again');
  await Promise.all(pages.map(({ closed }) => closed));
});
