import t from 'tap';
import { heapBytes } from './heap.ts';
import { bellaAt, serve, writeConfig } from './helper.ts';
import { open } from './sse-client.ts';
import { chunk, DONE, STOP, sse, startUpstream, text } from './upstream.ts';

/** The memory of a long prompt is free once its answer has begun. */

const PROMPT_CHARS = 900_000;
const QUESTIONS = ['a', 'b', 'c', 'd'];

t.test('a prompt is dropped when its answer begins, unless another target may continue the answer', async (t) => {
  for (const [mode, isKept] of [
    ['error', false],
    ['continue', true],
  ] as const) {
    const upstream = await startUpstream(t, async ({ response }) => {
      sse(response).write(chunk({ role: 'assistant' }) + text('one '));
    });
    const yaml = `models: [{ name: m, onMidStreamFailure: ${mode}, targets: [{ provider: bella, model: m }] }]`;
    const { url } = await serve(t, {
      env: bellaAt(upstream.url, { CONFIG_FILE: writeConfig(t, yaml), DEFAULT_MODEL: 'm' }),
    });
    const ask = async (question: string) => {
      const reading = await open(`${url}/ask/stream`, { body: { question } });
      await reading.until('delta');
      // The upstream of the test keeps what it gets.
      for (const call of upstream.calls) (call as { body: string }).body = '';
      return reading;
    };
    await ask('short'); // Loads what the first answer needs.
    const before = heapBytes();
    const readings = [];
    for (const letter of QUESTIONS) readings.push(await ask(letter.repeat(PROMPT_CHARS)));
    const kept = (heapBytes() - before) / (QUESTIONS.length * PROMPT_CHARS);
    t.equal(kept > 0.5, isKept, `${mode}: ${kept.toFixed(2)} bytes are held for each character`);
    for (const { response } of upstream.calls) response.end(text('two') + STOP + DONE);
    for (const reading of readings) t.equal((await reading.until('end')).json.answer, 'one two');
  }
});
