import { EventSource } from 'eventsource';
import t, { type Test } from 'tap';
import { launch, noBrowser } from './browser.ts';
import { bellaAt, serve } from './helper.ts';
import { completeAnswer, startUpstream } from './upstream.ts';

/** Common EventSource implementations read an answer with unusual characters exactly. */

const DELTAS = [
  '你好',
  '，世界 ',
  '🚀👩‍🚀',
  ' “quotes” "double" \'single\'',
  '\n\nline\r\nline\rline',
  '\u2028\u2029\u0000',
  ' data: x\n\nid: 7',
  ' <b>&amp;</b> \\ end',
];
const ANSWER = DELTAS.join('');

/** Starts a service that answers every question with `ANSWER`, and returns its URL. */
async function serveAnswer(t: Test): Promise<string> {
  const upstream = await startUpstream(t, completeAnswer(...DELTAS));
  return (await serve(t, { env: bellaAt(upstream.url) })).url;
}

t.test('the EventSource of a browser receives the answer exactly', { skip: noBrowser }, async (t) => {
  const url = await serveAnswer(t);
  const page = await (await launch(t)).newPage();
  await page.goto(`${url}/livez`);
  const received = await page.evaluate(
    () =>
      new Promise<{ deltas: string; answer: string; types: string[] }>((resolve, reject) => {
        const source = new EventSource(`/ask/stream?question=${encodeURIComponent('你好？&=+')}`);
        const types: string[] = [];
        let deltas = '';
        source.onmessage = ({ data }) => {
          const event = JSON.parse(data);
          types.push(event.type);
          if (event.type === 'delta') deltas += event.content;
          if (event.type !== 'end') return;
          source.close();
          resolve({ deltas, answer: event.answer, types });
        };
        source.onerror = () => reject(new Error(`error after ${types.join()}`));
      }),
  );
  t.equal(received.deltas, ANSWER, 'the text of the deltas');
  t.equal(received.answer, ANSWER, 'the answer of the `end` event');
  t.equal(received.types[0], 'start', 'the first event is `start`');
});

t.test('the npm package eventsource receives the answer exactly', async (t) => {
  const url = await serveAnswer(t);
  const source = new EventSource(`${url}/ask/stream?question=q`);
  t.teardown(() => source.close());
  let deltas = '';
  const answer = await new Promise<string>((resolve, reject) => {
    source.addEventListener('message', ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === 'delta') deltas += event.content;
      if (event.type === 'end') resolve(event.answer);
    });
    source.addEventListener('error', ({ message }) => reject(new Error(message)));
  });
  t.equal(deltas, ANSWER, 'the text of the deltas');
  t.equal(answer, ANSWER, 'the answer of the `end` event');
});
