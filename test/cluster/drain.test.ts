import t from 'tap';
import {
  assertComplete,
  type Cluster,
  counting,
  noCluster,
  type Page,
  readProducedBy,
  startCluster,
} from '../cluster.ts';

/** A replica that is stopped while it produces an answer hands its readers over. */

t.test(
  'an answer that takes longer than the drain is finished for readers of the other replica',
  { skip: noCluster },
  async (t) => {
    const cluster = await startCluster(t, counting(130, 60), { DRAIN_MS: '500' });
    const [page] = (await readProducedBy(cluster, 0, 1)) as [Page];
    const { child, exit } = cluster.replicas[0] as Cluster['replicas'][number];
    child.kill('SIGTERM');
    t.equal(await exit, 0);
    await page.over;
    assertComplete(t, [page], 130);
    t.equal(cluster.upstream.calls.length, 1);
  },
);
