import t from 'tap';
import { assertComplete, type Cluster, noCluster, type Page, readProducedBy, startCluster } from '../cluster.ts';
import { numberedAnswer } from '../upstream.ts';

/** A replica that is stopped while it produces an answer hands its readers over. */

t.test(
  'a producer that drains finishes its answer for readers of the other replica',
  { skip: noCluster },
  async (t) => {
    const cluster = await startCluster(t, numberedAnswer(130, 60), { DRAIN_MS: '500' });
    const [page] = (await readProducedBy(cluster, 0, 1)) as [Page];
    const { child, exit } = cluster.replicas[0] as Cluster['replicas'][number];
    child.kill('SIGTERM');
    t.equal(await exit, 0, 'the replica exits with code 0');
    await page.closed;
    assertComplete(t, [page], 130);
    t.equal(cluster.upstream.calls.length, 1, 'the upstream is called once');
  },
);
