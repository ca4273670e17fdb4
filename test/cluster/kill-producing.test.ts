import t from 'tap';
import { noCluster, readProducedBy, STREAMS, startCluster } from '../cluster.ts';
import { until } from '../helper.ts';
import { numberedAnswer, numberedDeltas } from '../upstream.ts';

/** The producer of the streams is killed behind the gateway of `deploy/`. */

t.test('kill -9 of the producer: readers get the logged text, then `stream_lost`', { skip: noCluster }, async (t) => {
  const cluster = await startCluster(t, numberedAnswer(1_000, 60));
  const pages = await readProducedBy(cluster, 0, STREAMS);
  cluster.replicas[0]?.child.kill('SIGKILL');
  await until(() => pages.every(({ last }) => last !== undefined), 'every page has its last event');
  t.equal(pages.filter(({ last }) => last?.code === 'stream_lost').length, STREAMS, 'every page gets `stream_lost`');
  const answer = numberedDeltas(1_000).join('');
  t.ok(
    pages.every((page) => answer.startsWith(page.text)),
    'the text of every page is a prefix of the answer',
  );
  await Promise.all(pages.map(({ closed }) => closed));
  t.equal(cluster.upstream.calls.length, STREAMS, 'the upstream is not called again');
});
