import { setImmediate as turn } from 'node:timers/promises';
import t from 'tap';
import type { Provider } from '../../providers/types.ts';
import { serve } from '../helper.ts';
import { open } from '../sse-client.ts';

const REPETITIONS = 1_000;
const CONCURRENCY = 20;

t.test(`a resume racing the end gets the end once, then 204 (${REPETITIONS} times)`, async (t) => {
  const finish: (() => void)[] = [];
  let calls = 0;
  const provider: Provider = {
    name: 'bella',
    async *stream() {
      calls += 1;
      yield { type: 'text', text: 'a' };
      await new Promise<void>((resolve) => finish.push(resolve));
      yield { type: 'text', text: 'b' };
      yield { type: 'finish', reason: 'stop' };
    },
    async close() {},
  };
  const env = { BELLA_API_KEY: 'k', DEFAULT_MODEL: 'bella/m', STREAM_FLUSH_MS: '0' };
  const { url } = await serve(t, { env, providers: { bella: provider } });
  const askUrl = `${url}/ask/stream?question=q`;
  const outcomes = new Map<string, number>();

  const raceOnce = async (i: number) => {
    const first = await open(askUrl);
    await first.until('delta');
    const end = finish.shift() as () => void;
    // The end and the cut are a few turns of the event loop apart, in either order.
    const wait = async (turns: number) => {
      for (let n = 0; n < turns; n++) await turn();
    };
    await Promise.all([wait(i % 7).then(end), wait(Math.floor(i / 7) % 7).then(first.cut)]);
    const seen = [...first.events];
    for (let reconnects = 0; ; reconnects++) {
      if (reconnects > 3) throw new Error('the stream does not answer 204 after four reconnects');
      const again = await open(askUrl, { headers: { 'last-event-id': seen.at(-1)?.id } });
      await again.ended;
      seen.push(...again.events);
      if (again.response.statusCode !== 204) continue;
      const ends = seen.filter(({ json }) => json.type === 'end').length;
      const text = seen.map(({ json }) => (json.type === 'delta' ? json.content : '')).join('');
      const outcome = `${ends} end, text ${text}`;
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      return;
    }
  };
  for (let i = 0; i < REPETITIONS; i += CONCURRENCY) {
    await Promise.all(Array.from({ length: CONCURRENCY }, (_, k) => raceOnce(i + k)));
  }
  t.same([...outcomes], [['1 end, text ab', REPETITIONS]], 'every reader gets the whole text and one end');
  t.equal(calls, REPETITIONS, 'one upstream call for each question');
});
