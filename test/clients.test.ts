import { EventSource } from 'eventsource';
import t from 'tap';
import { launch, noBrowser } from './browser.ts';
import { bellaAt, serve } from './helper.ts';
import { completeAnswer, startUpstream } from './upstream.ts';

/** Clients that people use, none of ours, read an answer to the byte. */

const PIECES = [
  '你好',
  '，世界 ',
  '🚀👩‍🚀',
  ' “quotes” "double" \'single\'',
  '\n\nline\r\nline\rline',
  '\u2028\u2029\u0000',
  ' data: x\n\nid: 7',
  ' <b>&amp;</b> \\ end',
];
const ANSWER = PIECES.join('');

async function service(t: Parameters<typeof startUpstream>[0]): Promise<string> {
  const upstream = await startUpstream(t, completeAnswer(...PIECES));
  return (await serve(t, { env: bellaAt(upstream.url) })).url;
}

t.test('a browser’s EventSource', { skip: noBrowser }, async (t) => {
  const url = await service(t);
  const page = await (await launch(t)).newPage();
  await page.goto(`${url}/livez`);
  const seen = await page.evaluate(
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
  t.equal(seen.deltas, ANSWER);
  t.equal(seen.answer, ANSWER);
  t.equal(seen.types[0], 'start');
});

t.test('the eventsource package', async (t) => {
  const url = await service(t);
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
  t.equal(deltas, ANSWER);
  t.equal(answer, ANSWER);
});
