import t, { type Test } from 'tap';
import type { ProviderError } from '../../providers/errors.ts';
import { createOllama } from '../../providers/ollama.ts';
import { type Script, startUpstream } from '../upstream.ts';
import { type Collected, collect } from './collect.ts';
import { OPTIONS } from './options.ts';
import { cuts, random, SEED } from './random.ts';

/** What upstreams do with one JSON object a line, over a real socket. */

async function ask(t: Test, ...pieces: (string | Buffer)[]): Promise<Collected> {
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

t.test('one answer in every framing, cut anywhere', async (t) => {
  t.comment(`SEED=${SEED}`);
  const next = random(SEED);
  const framings = {
    LF: LINES,
    CRLF: LINES.replaceAll('\n', '\r\n'),
    'blank lines between': LINES.replaceAll('\n', '\n\n\n'),
    'no last line end': LINES.slice(0, -1),
    'rubbish after the end': `${LINES}{"nonsense\n`,
  };
  for (const [name, stream] of Object.entries(framings)) {
    const bytes = Buffer.from(stream);
    for (const most of [bytes.length, 300, 7]) {
      const { text, finish, error } = await ask(t, ...cuts(bytes, next, most));
      t.equal(error, undefined, `${name} in cuts of ${most}`);
      t.equal(text, ANSWER, name);
      t.match(finish, { reason: 'stop', usage: { outputTokens: 3 } }, name);
    }
  }
});

t.test('what is no answer', async (t) => {
  const cases: Record<string, [string[], string, string]> = {
    'no last line': [[line('partial')], 'upstream_truncated', 'truncated'],
    'half a line': [[line('partial'), line('lost').slice(0, 20)], 'upstream_truncated', 'truncated'],
    'an error line': [[line('partial'), '{"error":"SECRET"}\n', DONE], 'upstream_error', 'in_band'],
    'malformed JSON': [[line('partial'), '{"message":\n', DONE], 'upstream_protocol', 'bad_json'],
    'a line without end': [
      [line('partial'), ...Array(40).fill('x'.repeat(50_000))],
      'upstream_protocol',
      'event_too_large',
    ],
  };
  for (const [name, [pieces, code, reason]] of Object.entries(cases)) {
    const { error, text, finish } = await ask(t, ...pieces);
    t.match(error, { code, reason }, name);
    t.notMatch(String(error as ProviderError), /SECRET/, name);
    t.equal(text, 'partial', `${name}: what came is kept`);
    t.equal(finish, undefined, name);
  }
});
