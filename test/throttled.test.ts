import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { bellaAt } from './helper.ts';
import { runServer } from './process.ts';
import { readAll } from './sse-client.ts';
import { completeAnswer, startUpstream } from './upstream.ts';

/** Bursts of questions, and how many come at once. */
const BURSTS = 8;
const AT_ONCE = 4;

t.test('a service whose CPU is taken away again and again, as by a quota, answers every question', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('one ', 'two ', 'three'));
  // The limits of production, which other tests turn off.
  const { url, child } = await runServer(t, bellaAt(upstream.url, { MAX_EVENT_LOOP_DELAY_MS: '250' }));
  let isThrottled = true;
  const throttle = (async () => {
    while (isThrottled) {
      child.kill('SIGSTOP');
      await sleep(180);
      child.kill('SIGCONT');
      await sleep(20);
    }
  })();
  for (let burst = 0; burst < BURSTS; burst++) {
    const answers = Array.from({ length: AT_ONCE }, () => readAll(`${url}/ask/stream?question=q`));
    for (const { events } of await Promise.all(answers))
      t.match(events.at(-1)?.json, { type: 'end', answer: 'one two three' });
  }
  isThrottled = false;
  await throttle;
});
