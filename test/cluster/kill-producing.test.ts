import t from 'tap';
import { deltas, noCluster, numberedAnswer, readProducedBy, STREAMS, startCluster } from '../cluster.ts';
import { until } from '../helper.ts';

/** The replica that produces the streams dies behind the gateway of `deploy/`. */

t.test('kill -9 of the producer: readers get all that was logged, then an error', { skip: noCluster }, async (t) => {
  const cluster = await startCluster(t, numberedAnswer(1_000, 60));
  const pages = await readProducedBy(cluster, 0, STREAMS);
  cluster.replicas[0]?.child.kill('SIGKILL');
  await until(() => pages.every(({ last }) => last !== undefined), 'every page has its last event');
  t.equal(pages.filter(({ last }) => last?.code === 'stream_lost').length, STREAMS);
  const answer = deltas(1_000).join('');
  t.ok(
    pages.every((page) => answer.startsWith(page.text)),
    'what came before is a prefix',
  );
  await Promise.all(pages.map(({ over }) => over));
  t.equal(cluster.upstream.calls.length, STREAMS, 'the upstream is not called again');
});
