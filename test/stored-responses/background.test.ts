import t from 'tap';
import { ANONYMOUS } from '../../plugins/auth/identity.ts';
import { until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { finish, startReplicas } from './replicas.ts';

/** Answers that nobody reads. */

t.test('an answer in the background goes on without a reader, until the longest answer ends', async (t) => {
  const clock = manualClock();
  const replicas = await startReplicas(t, 1, { clock, env: { STREAM_GRACE_MS: '15000' } });
  const [app] = replicas.apps as [(typeof replicas.apps)[number]];
  const ask = async (stored: 'foreground' | 'background') => {
    const asked = await replicas.ask(app, ANONYMOUS, stored);
    await app.storedResponses.save(asked.id, ANONYMOUS, '{}');
    return asked;
  };
  const statusOf = async (id: string) => (await app.storedResponses.find(id, ANONYMOUS))?.answer?.status;
  const foreground = await ask('foreground');
  const background = await ask('background');
  const endless = await ask('background');
  clock.advance(15_000);
  t.equal(await statusOf(foreground.id), 'failed', 'it is abandoned after the grace time');
  clock.advance(20_000);
  t.equal(await statusOf(background.id), undefined, 'it runs');
  background.end(finish('stop'));
  await until(async () => (await statusOf(background.id)) !== undefined, 'it has ended');
  t.equal(await statusOf(background.id), 'completed');
  clock.advance(600_000);
  await until(async () => (await statusOf(endless.id)) !== undefined, 'it has ended');
  t.equal(await statusOf(endless.id), 'failed');
  await until(() => app.streams.active === 0, 'nothing runs');
});
