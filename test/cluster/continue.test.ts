import t from 'tap';
import { assertComplete, noCluster, readProducedBy, startCluster } from '../cluster.ts';
import { deferred, writeConfig } from '../helper.ts';
import { numberedAnswer } from '../upstream.ts';

/** The producer of the streams is killed, and another replica takes them over and continues the answers. */

t.test(
  'kill -9 of the producer with `onMidStreamFailure: continue`: another replica continues every answer once',
  { skip: noCluster },
  async (t) => {
    const file = writeConfig(
      t,
      'models: [{ name: steady, targets: [{ provider: bella, model: gpt-4o }], onMidStreamFailure: continue }]\n',
    );
    const release = deferred();
    const cluster = await startCluster(t, numberedAnswer(50, 60, release.promise), {
      CONFIG_FILE: file,
      DEFAULT_MODEL: 'steady',
    });
    const pages = await readProducedBy(cluster, 0, 40);
    cluster.replicas[0]?.child.kill('SIGKILL');
    release.resolve();
    await Promise.all(pages.map(({ closed }) => closed));
    assertComplete(t, pages, 50);
    t.equal(cluster.upstream.calls.length, 80, 'each answer is requested once and continued once');
  },
);
