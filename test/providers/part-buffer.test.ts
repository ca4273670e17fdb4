import t from 'tap';
import { truncatedError } from '../../providers/wire/answer-end.ts';
import { networkError } from '../../providers/wire/network-error.ts';
import { createPartBuffer } from '../../providers/wire/parts.ts';

/** Tests the parts of one read, and the errors of connections. */

const HIGH = '\ud83d';
const LOW = '\ude80';
const CALL = { type: 'tool_call', index: 0, arguments: '{}' } as const;

t.test('adjacent text of one type is one part, in order with other parts', async (t) => {
  const parts = createPartBuffer();
  t.same(parts.take(), [], 'nothing');
  parts.text('text', 'a');
  parts.text('text', 'b');
  parts.text('reasoning', 'c');
  parts.text('reasoning', 'd');
  parts.text('text', 'e');
  parts.toolCall(CALL);
  parts.text('text', 'f');
  t.same(parts.take(), [
    { type: 'text', text: 'ab' },
    { type: 'reasoning', text: 'cd' },
    { type: 'text', text: 'e' },
    CALL,
    { type: 'text', text: 'f' },
  ]);
  t.same(parts.take(), [], 'each part is taken once');
  parts.text('reasoning', 'g');
  t.same(parts.flush(), [{ type: 'reasoning', text: 'g' }]);
  t.same(parts.flush(), []);
});

t.test('half of a surrogate pair is held back until the other half arrives', async (t) => {
  const parts = createPartBuffer();
  parts.text('text', HIGH);
  t.same(parts.take(), [], 'no empty part');
  parts.text('text', LOW);
  t.same(parts.take(), [{ type: 'text', text: '🚀' }]);
  parts.text('text', `a${HIGH}`);
  t.same(parts.take(), [{ type: 'text', text: 'a' }]);
  parts.text('text', `${LOW}b`);
  t.same(parts.take(), [{ type: 'text', text: '🚀b' }]);
  parts.text('text', '🚀');
  t.same(parts.take(), [{ type: 'text', text: '🚀' }], 'a whole pair is not held back');
  for (const text of ['\ud7ff', '\udc00', '\ue000', '\uffff', 'é']) {
    parts.text('text', text);
    t.same(parts.take(), [{ type: 'text', text }], `U+${text.charCodeAt(0).toString(16)} is not held back`);
  }
  for (const text of ['\ud800', '\udbff']) {
    parts.text('text', text);
    t.same(parts.take(), [], `U+${text.charCodeAt(0).toString(16)} is held back`);
    t.same(parts.flush(), [{ type: 'text', text }], 'a half without its other half is flushed');
  }
});

t.test('half of a surrogate pair stays in front of what follows it', async (t) => {
  const parts = createPartBuffer();
  parts.text('text', `a${HIGH}`);
  parts.take();
  parts.toolCall(CALL);
  t.same(parts.take(), [{ type: 'text', text: HIGH }, CALL], 'a tool call');
  parts.text('text', HIGH);
  parts.take();
  parts.text('reasoning', 'b');
  t.same(parts.flush(), [
    { type: 'text', text: HIGH },
    { type: 'reasoning', text: 'b' },
  ]);
});

t.test('half of a surrogate pair in the arguments of a tool call is held back, by call', async (t) => {
  const parts = createPartBuffer();
  const call = (index: number, text: string, head: object = {}) =>
    parts.toolCall({ type: 'tool_call', index, ...head, arguments: text });
  call(0, `{"a":"${HIGH}`, { id: 'c0', name: 'f' });
  call(1, HIGH, { id: 'c1', name: 'g' });
  parts.text('text', 'between');
  t.same(parts.take(), [
    { type: 'tool_call', index: 0, id: 'c0', name: 'f', arguments: '{"a":"' },
    { type: 'tool_call', index: 1, id: 'c1', name: 'g', arguments: '' },
    { type: 'text', text: 'between' },
  ]);
  call(0, '');
  call(1, '');
  t.same(parts.take(), [], 'an empty fragment releases nothing, and is no part');
  call(1, `${LOW}1`);
  call(0, `${LOW}${HIGH}`);
  t.same(parts.take(), [
    { type: 'tool_call', index: 1, arguments: '🚀1' },
    { type: 'tool_call', index: 0, arguments: '🚀' },
  ]);
  call(0, `${LOW}"}`);
  call(1, HIGH);
  t.same(parts.flush(), [
    { type: 'tool_call', index: 0, arguments: '🚀"}' },
    { type: 'tool_call', index: 1, arguments: HIGH },
  ]);
  t.same(parts.flush(), [], 'what was held back is released once');
  call(0, '{}');
  t.same(parts.take(), [{ type: 'tool_call', index: 0, arguments: '{}' }]);
});

t.test('arguments cut at any place are the same text, without a lone surrogate in any part', async (t) => {
  const text = '{"a":"🚀🦊","b":"x🚀"}';
  for (let cut = 1; cut < text.length; cut++) {
    const parts = createPartBuffer();
    let joined = '';
    for (const piece of [text.slice(0, cut), text.slice(cut)]) {
      parts.toolCall({ type: 'tool_call', index: 0, arguments: piece });
      for (const part of parts.take()) {
        const piece = part.type === 'tool_call' ? part.arguments : '';
        t.ok(piece.isWellFormed(), `cut at ${cut}`);
        joined += piece;
      }
    }
    t.equal(joined, text);
    t.same(parts.flush(), []);
  }
});

t.test('errors of a connection are classified by their code and by the part of the response', async (t) => {
  const cases: [string, object, object][] = [
    ['UND_ERR_CONNECT_TIMEOUT', { code: 'upstream_timeout', stage: 'connect', reason: 'connect_timeout' }, {}],
    ['ETIMEDOUT', { code: 'upstream_timeout', stage: 'connect', reason: 'connect_timeout' }, {}],
    ['UND_ERR_HEADERS_TIMEOUT', { code: 'upstream_timeout', stage: 'headers', reason: 'headers_timeout' }, {}],
    ['HPE_INVALID_CONSTANT', { code: 'upstream_protocol', reason: 'http_parser' }, {}],
    ['UND_ERR_HEADERS_OVERFLOW', { code: 'upstream_protocol', reason: 'http_parser' }, {}],
    ['ENOTFOUND', { code: 'upstream_unreachable', reason: 'dns' }, { code: 'upstream_truncated', reason: 'reset' }],
    ['EAI_AGAIN', { code: 'upstream_unreachable', reason: 'dns' }, { code: 'upstream_truncated', reason: 'reset' }],
    [
      'ECONNREFUSED',
      { code: 'upstream_unreachable', reason: 'connect' },
      { code: 'upstream_truncated', reason: 'reset' },
    ],
    [
      'ECONNRESET',
      { code: 'upstream_unreachable', reason: 'connect' },
      { code: 'upstream_truncated', reason: 'reset' },
    ],
    [
      'UND_ERR_SOCKET',
      { code: 'upstream_unreachable', reason: 'connect' },
      { code: 'upstream_truncated', reason: 'reset' },
    ],
  ];
  for (const [code, before, inBody] of cases) {
    const error = Object.assign(new Error('SECRET'), { code });
    const expected = { name: 'ProviderError', retryable: true, cause: error, ...before };
    t.match(networkError(error, 'before_headers'), expected, `${code} before the headers`);
    t.match(networkError(error, 'in_body'), { ...expected, ...inBody }, `${code} in the body`);
  }
  const abort = new DOMException('aborted', 'AbortError');
  t.equal(networkError(abort, 'in_body'), abort, 'an abort is passed on');
  const undici = Object.assign(new Error('aborted'), { code: 'UND_ERR_ABORTED' });
  t.equal(networkError(undici, 'before_headers'), undici);
  const known = truncatedError();
  t.equal(networkError(known, 'before_headers'), known, 'a ProviderError is passed on');
  t.match(known, { code: 'upstream_truncated', reason: 'truncated', retryable: true });
});
