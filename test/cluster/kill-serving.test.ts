import t from 'tap';
import { assertComplete, noCluster, readProducedBy, STREAMS, startCluster } from '../cluster.ts';
import { deferred } from '../helper.ts';
import { numberedAnswer } from '../upstream.ts';

/** A replica that serves readers, but produces nothing, is killed behind the gateway of `deploy/`. */

const p99 = (values: readonly number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length * 0.99)] ?? 0;

t.test('kill -9 of the serving replica: readers resume and get every token once', { skip: noCluster }, async (t) => {
  const release = deferred();
  const cluster = await startCluster(t, numberedAnswer(100, 60, release.promise));
  const pages = await readProducedBy(cluster, 0, STREAMS);
  cluster.replicas[1]?.child.kill('SIGKILL');
  release.resolve();
  await Promise.all(pages.map(({ closed }) => closed));
  assertComplete(t, pages, 100);
  const moved = pages.filter(({ gaps }) => gaps.length > 0);
  t.ok(moved.length >= STREAMS / 4, `${moved.length} of ${STREAMS} readers have reconnected, at least a quarter`);
  t.comment(`from the cut to the next event, p99: ${Math.round(p99(moved.map(({ gaps }) => gaps[0] as number)))} ms`);
  t.equal(cluster.upstream.calls.length, STREAMS, 'one upstream call for each stream');
});
