import t, { type Test } from 'tap';
import type { ProviderError } from '../../providers/errors.ts';
import { createOllama } from '../../providers/ollama.ts';
import { type Script, startUpstream } from '../upstream.ts';
import { type Collected, collect } from './collect.ts';
import { OPTIONS } from './options.ts';
import { random, SEED, splitRandomly } from './random.ts';

/** Tests the NDJSON parser of Ollama over real sockets. */

async function collectFrom(t: Test, ...pieces: (string | Buffer)[]): Promise<Collected> {
  const script: Script = async ({ response }) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    for (const piece of pieces) {
      response.write(piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    response.end();
  };
  const { url } = await startUpstream(t, script);
  const provider = createOllama({ ...OPTIONS, baseUrl: url });
  t.teardown(() => provider.close());
  const messages = [{ role: 'user', content: 'q' }] as const;
  return collect(provider.stream({ model: 'm', messages }, new AbortController().signal));
}

const line = (content: string) => `${JSON.stringify({ message: { role: 'assistant', content }, done: false })}\n`;
const DONE = `${JSON.stringify({ message: { content: '' }, done: true, done_reason: 'stop', eval_count: 3 })}\n`;
const ANSWER = '你好 🚀 “quoted”\n\u2028line\ttab \\ end';
const LINES = [...ANSWER].map(line).join('') + DONE;

t.test('an answer is decoded in every NDJSON framing, split at any byte', async (t) => {
  t.comment(`SEED=${SEED}`);
  const next = random(SEED);
  const framings = {
    LF: LINES,
    CRLF: LINES.replaceAll('\n', '\r\n'),
    'blank lines between': LINES.replaceAll('\n', '\n\n\n'),
    'no last line end': LINES.slice(0, -1),
    'malformed data after the end': `${LINES}{"nonsense\n`,
  };
  for (const [name, stream] of Object.entries(framings)) {
    const bytes = Buffer.from(stream);
    for (const maxBytes of [bytes.length, 300, 7]) {
      const { text, finish, error } = await collectFrom(t, ...splitRandomly(bytes, next, maxBytes));
      t.equal(error, undefined, `${name}: no error in pieces of at most ${maxBytes} bytes`);
      t.equal(text, ANSWER, `${name}: text`);
      t.match(finish, { reason: 'stop', usage: { outputTokens: 3 } }, `${name}: finish`);
    }
  }
});

t.test('incomplete and invalid answers are errors, and keep the received text', async (t) => {
  const cases: Record<string, [string[], string, string]> = {
    'no last line': [[line('partial')], 'upstream_truncated', 'truncated'],
    'half a line': [[line('partial'), line('lost').slice(0, 20)], 'upstream_truncated', 'truncated'],
    'an error line': [[line('partial'), '{"error":"SECRET"}\n', DONE], 'upstream_error', 'in_band'],
    'malformed JSON': [[line('partial'), '{"message":\n', DONE], 'upstream_protocol', 'bad_json'],
  };
  for (const [name, [pieces, code, reason]] of Object.entries(cases)) {
    const { error, text, finish } = await collectFrom(t, ...pieces);
    t.match(error, { code, reason }, name);
    t.notMatch(String(error as ProviderError), /SECRET/, `${name}: the provider's message is not exposed`);
    t.equal(text, 'partial', `${name}: received text is kept`);
    t.equal(finish, undefined, `${name}: no finish part`);
  }
});
