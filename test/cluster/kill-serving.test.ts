import t from 'tap';
import { assertComplete, noCluster, numberedAnswer, readProducedBy, STREAMS, startCluster } from '../cluster.ts';

/** The replica that serves readers dies behind the gateway of `deploy/`. */

const p99 = (values: readonly number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length * 0.99)] ?? 0;

t.test('kill -9 of the serving replica: every reader resumes on the other', { skip: noCluster }, async (t) => {
  let release = () => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  const cluster = await startCluster(t, numberedAnswer(100, 60, released));
  const pages = await readProducedBy(cluster, 0, STREAMS);
  cluster.replicas[1]?.child.kill('SIGKILL');
  release();
  await Promise.all(pages.map(({ over }) => over));
  assertComplete(t, pages, 100);
  const moved = pages.filter(({ gaps }) => gaps.length > 0);
  t.ok(moved.length >= STREAMS / 4, `${moved.length} of ${STREAMS} had to move`);
  t.comment(`from the cut to the next event, p99: ${Math.round(p99(moved.map(({ gaps }) => gaps[0] as number)))} ms`);
  t.equal(cluster.upstream.calls.length, STREAMS, 'one upstream call each');
});
