import { setTimeout as sleep } from 'node:timers/promises';
import { type Call, chunk, DONE, type Script, sse, text } from '../upstream.ts';

/** Answers of the tests of the client, by the words of the question. */

/** Text with characters that a decoder can get wrong at a cut. */
export const DELTAS = [
  'Streams ',
  '你好，世界 ',
  '🚀👩‍🚀 ',
  '“quotes” "double" \\ ',
  '\n\nline\r\nline\rline ',
  'data: x\n\nid: 7 ',
  '\u2028\u2029 ',
  'end.',
];
export const TEXT = DELTAS.join('');

export const lastOf = ({ body }: Call): string => JSON.parse(body).messages.at(-1).content;

/**
 * Answers with `DELTAS`, 10 ms apart. A question that holds `endless` gets words until it is stopped, one that holds
 * `fail` a failure, and one that holds `think` reasoning and a tool call as well.
 */
export const answer: Script = (call) => answerAfter(Promise.resolve())(call);

/** The same; the last delta waits for `gate`. */
export const answerAfter =
  (gate: Promise<unknown>): Script =>
  async (call) => {
    const { response } = call;
    const question = lastOf(call);
    if (question.includes('fail')) return void response.writeHead(400).end('{"error":{"message":"no"}}');
    sse(response);
    if (question.includes('think')) {
      for (const part of ['Let me ', 'think.']) response.write(chunk({ reasoning_content: part }));
    }
    for (let i = 0; question.includes('endless') && !response.destroyed; i++) {
      response.write(text(`${i} `));
      await sleep(20); // Paces the answer, so that a test can act while it runs.
    }
    for (const delta of DELTAS) {
      if (delta === DELTAS.at(-1)) await gate;
      if (response.destroyed) return;
      response.write(text(delta));
      await sleep(10); // As above.
    }
    if (question.includes('tool')) {
      response.write(
        chunk({ tool_calls: [{ index: 0, id: 'call-1', function: { name: 'weather', arguments: '{"city"' } }] }),
      );
      await sleep(10); // As above.
      response.write(chunk({ tool_calls: [{ index: 0, function: { arguments: ':"Oslo"}' } }] }));
      response.end(chunk({}, 'tool_calls') + DONE);
      return;
    }
    response.end(chunk({}, 'stop', { usage: { prompt_tokens: 3, completion_tokens: 8 } }) + DONE);
  };
