import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { assertComplete, noCluster, numberedAnswer, readProducedBy, startCluster } from '../cluster.ts';

/** The producing replica dies behind the gateway of `deploy/`, and another one continues its answers. */

t.test(
  'kill -9 of the producer with `onMidStreamFailure: continue`: one other replica continues each answer',
  { skip: noCluster },
  async (t) => {
    const file = join(t.testdir(), 'sluice.yaml');
    writeFileSync(
      file,
      'models: [{ name: steady, targets: [{ provider: bella, model: gpt-4o }], onMidStreamFailure: continue }]\n',
    );
    let release = () => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    const cluster = await startCluster(t, numberedAnswer(50, 60, released), {
      CONFIG_FILE: file,
      DEFAULT_MODEL: 'steady',
    });
    const pages = await readProducedBy(cluster, 0, 40);
    cluster.replicas[0]?.child.kill('SIGKILL');
    release();
    await Promise.all(pages.map(({ over }) => over));
    assertComplete(t, pages, 50);
    t.equal(cluster.upstream.calls.length, 80, 'the rest of each answer is requested once');
  },
);
