import t from 'tap';
import { MAX_EVENT_CHARS } from '../../providers/wire/sse.ts';
import { DONE, events, gemini, openai, startDialects } from './dialects.ts';

/** Tests how bytes become events: line ends, split characters, incomplete and oversized events. */

const chunk = (content: string, finish: string | null = null) => events(openai.chunk({ content }, finish));
const STOP = events(openai.chunk({}, 'stop'));
const ANSWER = chunk('你 ') + chunk('🚀\n\u2028') + STOP + DONE;

t.test('an answer is decoded with every line end, and split at every byte', async (t) => {
  const play = await startDialects(t);
  const framings: Record<string, string> = {
    LF: ANSWER,
    CRLF: ANSWER.replaceAll('\n', '\r\n'),
    'CR alone': ANSWER.replaceAll('\n', '\r'),
    'data without a space': ANSWER.replaceAll('data: ', 'data:'),
    'a byte order mark': `\ufeff${ANSWER}`,
    'comments, ids and names': ANSWER.replaceAll('data: ', ': keep-alive\nid: 7\nevent: message\nretry: 10\ndata: '),
    'empty data': `data:\n\ndata: \n\n${ANSWER}`,
    'spaces around the data': ANSWER.replaceAll('data: ', 'data:   ').replaceAll('\n\n', '  \n\n'),
  };
  for (const [name, body] of Object.entries(framings)) {
    for (const size of [1_000_000, 3]) {
      const bytes = Buffer.from(body);
      const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
        bytes.subarray(i * size, (i + 1) * size),
      );
      const played = await play('openai-compatible', pieces);
      t.match(
        played,
        { text: '你 🚀\n\u2028', finish: { reason: 'stop' }, error: undefined },
        `${name}, ${size} bytes at a time`,
      );
    }
  }
});

t.test('a last event without a blank line counts', async (t) => {
  const play = await startDialects(t);
  for (const end of [STOP, STOP.slice(0, -1), STOP.slice(0, -2)]) {
    const { text, finish, error } = await play('openai-compatible', chunk('x') + end);
    t.match(
      { text, finish, error },
      { text: 'x', finish: { reason: 'stop' }, error: undefined },
      JSON.stringify(end.slice(-3)),
    );
  }
  t.match(await play('gemini', events(gemini.chunk([{ text: 'x' }], 'STOP')).slice(0, -2)), {
    text: 'x',
    error: undefined,
  });
});

t.test('an answer that is cut off is upstream_truncated, and what arrived is kept', async (t) => {
  const play = await startDialects(t);
  const cut = Buffer.from(chunk('世'));
  const cases: [string, (string | Buffer)[]][] = [
    ['between two events', [chunk('partial')]],
    ['inside an event', [chunk('partial'), chunk('lost').slice(0, 30)]],
    ['inside a character', [chunk('partial'), cut.subarray(0, cut.indexOf('世') + 1)]],
    ['before the first event', []],
  ];
  for (const [name, pieces] of cases) {
    const { text, error, finish } = await play('openai-compatible', pieces);
    t.match(error, { code: 'upstream_truncated', reason: 'truncated', retryable: true }, name);
    t.equal(text, pieces.length > 0 ? 'partial' : '', `${name}: text`);
    t.equal(finish, undefined);
  }
});

t.test('an event that is no JSON object is upstream_protocol, and is not retried', async (t) => {
  const play = await startDialects(t);
  for (const [data, reason] of [
    ['{"a":', 'bad_json'],
    ['hello', 'bad_json'],
    ['17', 'bad_chunk'],
    ['null', 'bad_chunk'],
    ['"text"', 'bad_chunk'],
  ]) {
    for (const dialect of ['openai-compatible', 'anthropic', 'gemini'] as const) {
      const { error } = await play(dialect, `data: ${data}\n\n${STOP}`);
      t.match(error, { code: 'upstream_protocol', reason, retryable: false }, `${dialect} ${data}`);
    }
    const { error } = await play('ollama', `${data}\n{"done":true}\n`);
    t.match(error, { code: 'upstream_protocol', reason, retryable: false }, `ollama ${data}`);
  }
});

t.test('an event may be long, and has a bound', async (t) => {
  const play = await startDialects(t);
  const long = 'x'.repeat(1_000_000);
  const line = (content: string) => `${JSON.stringify({ message: { content } })}\n`;
  t.equal((await play('openai-compatible', chunk(long) + STOP)).text, long);
  t.equal((await play('ollama', `${line(long)}{"done":true}\n`)).text, long);
  const endless = Array(Math.ceil(MAX_EVENT_CHARS / long.length)).fill(long);
  const bodies = [
    ['openai-compatible', [chunk('partial'), 'data: ', ...endless]],
    ['openai-compatible', [chunk('partial'), ...endless.map((data) => `data: ${data}\n`)]],
    ['ollama', [line('partial'), ...endless]],
  ] as const;
  for (const [dialect, pieces] of bodies) {
    const { text, error } = await play(dialect, pieces);
    t.match(error, { code: 'upstream_protocol', reason: 'event_too_large', retryable: false }, dialect);
    t.equal(text, 'partial', `${dialect}: text`);
  }
});

t.test('text outside of events is ignored, unless it is a JSON object behind them', async (t) => {
  const play = await startDialects(t);
  const answer = chunk('x') + STOP;
  for (const stray of ['hello\n', '[17]\n', '17\n', '{not json}\n', '{"a":\n']) {
    const { error, text } = await play('openai-compatible', answer + stray);
    t.same([error, text], [undefined, 'x'], JSON.stringify(stray));
  }
  const failure = JSON.stringify({ error: { code: 503, message: 'm' } }, null, 2);
  for (const stray of [failure, `\n  ${failure}\n`, failure.replaceAll('\n', '\r\n')]) {
    const { error, text } = await play('openai-compatible', answer + stray);
    t.match(error, { code: 'upstream_error', retryable: true, upstream: { message: 'm' } }, JSON.stringify(stray));
    t.equal(text, 'x');
  }
});

t.test('NDJSON: line ends, blank lines and a last line without a line end are accepted', async (t) => {
  const play = await startDialects(t);
  const line = (content: string) => `${JSON.stringify({ message: { content } })}\n`;
  const body = `${line('你 ')}${line('🚀')}{"done":true,"done_reason":"stop"}\n`;
  const framings: Record<string, string> = {
    LF: body,
    CRLF: body.replaceAll('\n', '\r\n'),
    'blank lines': body.replaceAll('\n', '\n\n  \n'),
    'no last line end': body.slice(0, -1),
  };
  for (const [name, text] of Object.entries(framings)) {
    const bytes = Buffer.from(text);
    for (const size of [1_000_000, 3]) {
      const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
        bytes.subarray(i * size, (i + 1) * size),
      );
      t.match(
        await play('ollama', pieces),
        { text: '你 🚀', finish: { reason: 'stop' }, error: undefined },
        `${name} ${size}`,
      );
    }
  }
  for (const rest of ['', line('lost').slice(0, 12), '\n']) {
    t.match(
      await play('ollama', line('partial') + rest),
      { text: 'partial', error: { code: 'upstream_truncated' } },
      `cut: ${rest}`,
    );
  }
});
