import fc from 'fast-check';
import t from 'tap';
import { ProviderError } from '../../providers/errors.ts';
import type { FinishPart } from '../../providers/types.ts';
import { createPartBuffer } from '../../providers/wire/parts.ts';
import { createResponsesDecoder } from '../../providers/wire/responses-stream.ts';
import { add, type Collected, empty } from './collect.ts';
import { SEED } from './random.ts';

/** Tests how the events of OpenAI's Responses API are read, in streams of every kind that the specification has. */

type Event = { type: string } & Record<string, unknown>;

const bytesOf = (...events: object[]) =>
  Buffer.from(
    events
      .map(
        (event, i) => `event: ${(event as Event).type}\ndata: ${JSON.stringify({ ...event, sequence_number: i })}\n\n`,
      )
      .join(''),
  );

interface Decoded extends Collected {
  /** Number of reports that the model is thinking. */
  thinking: number;
}

/** Decodes bytes that arrive in these pieces, and the end of the body. */
function decode(pieces: readonly Buffer[]): Decoded {
  const parts = createPartBuffer();
  const decoder = createResponsesDecoder(parts);
  const decoded: Decoded = { ...empty(), thinking: 0 };
  const take = () => {
    for (const part of parts.take()) add(decoded, part);
    if (parts.takeThinking()) decoded.thinking += 1;
  };
  try {
    for (const piece of pieces) {
      decoder.push(piece);
      take();
    }
    if (!decoder.done) decoder.end();
    take();
    const finish: FinishPart = decoder.finish();
    for (const part of parts.flush()) add(decoded, part);
    add(decoded, finish);
  } catch (error) {
    for (const part of parts.flush()) add(decoded, part);
    decoded.error = error;
  }
  return decoded;
}

const created = {
  type: 'response.created',
  response: { id: 'resp_1', status: 'in_progress', output: [], error: null },
};
const USAGE = {
  input_tokens: 11,
  input_tokens_details: { cached_tokens: 3 },
  output_tokens: 22,
  output_tokens_details: { reasoning_tokens: 8 },
  total_tokens: 33,
};
const closing = (status: string, output: object[] = [], more: object = {}) => ({
  type: `response.${status}`,
  response: {
    id: 'resp_1',
    object: 'response',
    status,
    output,
    error: null,
    incomplete_details: null,
    usage: USAGE,
    ...more,
  },
});
const added = (index: number, item: object) => ({ type: 'response.output_item.added', output_index: index, item });
const done = (index: number, item: object) => ({ type: 'response.output_item.done', output_index: index, item });
const message = (index: number, text: string) => ({
  id: `msg_${index}`,
  type: 'message',
  role: 'assistant',
  status: 'completed',
  content: [{ type: 'output_text', text, annotations: [] }],
});
/** The events of a message, as the specification lists them. */
const messageEvents = (index: number, ...deltas: string[]) => {
  const place = { item_id: `msg_${index}`, output_index: index, content_index: 0 };
  const text = deltas.join('');
  return [
    added(index, { ...message(index, ''), status: 'in_progress', content: [] }),
    { type: 'response.content_part.added', ...place, part: { type: 'output_text', text: '', annotations: [] } },
    ...deltas.map((delta) => ({ type: 'response.output_text.delta', ...place, delta, logprobs: [], obfuscation: 'x' })),
    { type: 'response.output_text.annotation.added', ...place, annotation_index: 0, annotation: { type: 'file_path' } },
    { type: 'response.output_text.done', ...place, text, logprobs: [] },
    { type: 'response.content_part.done', ...place, part: { type: 'output_text', text } },
    done(index, message(index, text)),
  ];
};
const call = (index: number, args: string) => ({
  id: `fc_${index}`,
  type: 'function_call',
  call_id: `call_${index}`,
  name: `tool_${index}`,
  arguments: args,
  status: 'completed',
});
const callEvents = (index: number, ...deltas: string[]) => {
  const place = { item_id: `fc_${index}`, output_index: index };
  const args = deltas.join('');
  return [
    added(index, { ...call(index, ''), status: 'in_progress' }),
    ...deltas.map((delta) => ({ type: 'response.function_call_arguments.delta', ...place, delta })),
    { type: 'response.function_call_arguments.done', ...place, name: `tool_${index}`, arguments: args },
    done(index, call(index, args)),
  ];
};
const reasoning = (index: number, encrypted?: string, ...summary: string[]) => ({
  id: `rs_${index}`,
  type: 'reasoning',
  summary: summary.map((text) => ({ type: 'summary_text', text })),
  ...(encrypted !== undefined && { encrypted_content: encrypted }),
});
const reasoningEvents = (index: number, encrypted: string, ...summary: string[]) => [
  added(index, reasoning(index, '')),
  ...summary.flatMap((text, part) => {
    const place = { item_id: `rs_${index}`, output_index: index, summary_index: part };
    return [
      { type: 'response.reasoning_summary_part.added', ...place, part: { type: 'summary_text', text: '' } },
      { type: 'response.reasoning_summary_text.delta', ...place, delta: text.slice(0, 3) },
      { type: 'response.reasoning_summary_text.delta', ...place, delta: text.slice(3) },
      { type: 'response.reasoning_summary_text.done', ...place, text },
      { type: 'response.reasoning_summary_part.done', ...place, part: { type: 'summary_text', text } },
    ];
  }),
  done(index, reasoning(index, encrypted, ...summary)),
];
const inProgress = { type: 'response.in_progress', response: created.response };
const queued = { type: 'response.queued', response: created.response };
const FINISHED = {
  usage: { inputTokens: 11, outputTokens: 22, totalTokens: 33, cachedTokens: 3, reasoningTokens: 8 },
};
const STATE = (index: number, before: number) => ({
  type: 'reasoning.encrypted',
  id: `rs_${index}`,
  data: `ENCRYPTED-${index}`,
  format: 'openai-responses-v1',
  before,
});

/** Streams by name, and what becomes of them. */
const STREAMS: [name: string, events: object[], expected: object][] = [
  [
    'text',
    [
      created,
      queued,
      inProgress,
      ...messageEvents(0, 'Hel', 'lo 你', '好 🚀'),
      closing('completed', [message(0, 'Hello 你好 🚀')]),
    ],
    { text: 'Hello 你好 🚀', finish: { reason: 'stop', rawReason: 'completed', ...FINISHED } },
  ],
  [
    'reasoning with a summary of two parts, and text',
    [
      created,
      ...reasoningEvents(0, 'ENCRYPTED-0', 'First.', 'Second.'),
      ...messageEvents(1, 'x'),
      closing('completed'),
    ],
    { reasoning: 'First.\n\nSecond.', text: 'x', finish: { reason: 'stop', state: undefined } },
  ],
  [
    'reasoning text of open models',
    [
      created,
      { type: 'response.reasoning_text.delta', item_id: 'rs_0', output_index: 0, content_index: 0, delta: 'Hm' },
      { type: 'response.reasoning_text.done', item_id: 'rs_0', output_index: 0, content_index: 0, text: 'Hm' },
      ...messageEvents(1, 'x'),
      closing('completed'),
    ],
    { reasoning: 'Hm', text: 'x' },
  ],
  [
    'a call after reasoning',
    [created, ...reasoningEvents(0, 'ENCRYPTED-0', 'Think.'), ...callEvents(1, '{"a":', '1}'), closing('completed')],
    {
      reasoning: 'Think.',
      toolCalls: [{ id: 'call_1', name: 'tool_1', arguments: '{"a":1}' }],
      finish: { reason: 'tool_calls', state: { details: [STATE(0, 0)] } },
    },
  ],
  [
    'two calls, each after its reasoning',
    [
      created,
      ...reasoningEvents(0, 'ENCRYPTED-0'),
      ...callEvents(1, '{}'),
      ...reasoningEvents(2, 'ENCRYPTED-2'),
      ...callEvents(3, '{"b":2}'),
      closing('completed', [
        reasoning(0, 'ENCRYPTED-0'),
        call(1, '{}'),
        reasoning(2, 'ENCRYPTED-2'),
        call(3, '{"b":2}'),
      ]),
    ],
    {
      toolCalls: [
        { id: 'call_1', name: 'tool_1', arguments: '{}' },
        { id: 'call_3', name: 'tool_3', arguments: '{"b":2}' },
      ],
      finish: { state: { details: [STATE(0, 0), STATE(2, 1)] } },
    },
  ],
  [
    'parallel calls whose fragments alternate',
    [
      created,
      added(0, call(0, '')),
      added(1, call(1, '')),
      { type: 'response.function_call_arguments.delta', item_id: 'fc_0', output_index: 0, delta: '{"a"' },
      { type: 'response.function_call_arguments.delta', item_id: 'fc_1', output_index: 1, delta: '{"b"' },
      { type: 'response.function_call_arguments.delta', item_id: 'fc_0', output_index: 0, delta: ':1}' },
      { type: 'response.function_call_arguments.delta', item_id: 'fc_1', output_index: 1, delta: ':2}' },
      closing('completed', [call(0, '{"a":1}'), call(1, '{"b":2}')]),
    ],
    {
      toolCalls: [
        { id: 'call_0', name: 'tool_0', arguments: '{"a":1}' },
        { id: 'call_1', name: 'tool_1', arguments: '{"b":2}' },
      ],
    },
  ],
  [
    'a refusal',
    [
      created,
      added(0, { id: 'msg_0', type: 'message', content: [] }),
      {
        type: 'response.content_part.added',
        item_id: 'msg_0',
        output_index: 0,
        part: { type: 'refusal', refusal: '' },
      },
      { type: 'response.refusal.delta', item_id: 'msg_0', output_index: 0, content_index: 0, delta: "I can't." },
      { type: 'response.refusal.done', item_id: 'msg_0', output_index: 0, content_index: 0, refusal: "I can't." },
      closing('completed'),
    ],
    { text: "I can't.", finish: { reason: 'stop' } },
  ],
  [
    'an answer that reached its limit',
    [
      created,
      ...messageEvents(0, 'cut'),
      closing('incomplete', [], { incomplete_details: { reason: 'max_output_tokens' } }),
    ],
    { text: 'cut', finish: { reason: 'length', rawReason: 'max_output_tokens' } },
  ],
  [
    'an answer that a filter ended',
    [
      created,
      ...messageEvents(0, 'cut'),
      closing('incomplete', [], { incomplete_details: { reason: 'content_filter' } }),
    ],
    { text: 'cut', finish: { reason: 'content_filter' } },
  ],
  [
    'whole items without deltas',
    [
      created,
      done(0, reasoning(0, 'ENCRYPTED-0', 'Whole.')),
      done(1, message(1, 'text')),
      done(2, call(2, '{"c":3}')),
      closing('completed'),
    ],
    {
      reasoning: 'Whole.',
      text: 'text',
      toolCalls: [{ id: 'call_2', name: 'tool_2', arguments: '{"c":3}' }],
      finish: { state: { details: [STATE(0, 0)] } },
    },
  ],
  [
    'only the last event',
    [created, closing('completed', [reasoning(0, 'ENCRYPTED-0', 'All.'), message(1, 'at once'), call(2, '')])],
    {
      reasoning: 'All.',
      text: 'at once',
      toolCalls: [{ id: 'call_2', name: 'tool_2', arguments: '' }],
      finish: { state: { details: [STATE(0, 0)] } },
    },
  ],
  [
    'text in `done` events only',
    [
      created,
      { type: 'response.output_text.done', item_id: 'msg_0', output_index: 0, content_index: 0, text: 'late' },
      done(0, message(0, 'late')),
      closing('completed', [message(0, 'late')]),
    ],
    { text: 'late' },
  ],
  [
    'items without a place, told apart by id',
    [
      created,
      { type: 'response.output_text.delta', item_id: 'a', delta: 'one ' },
      { type: 'response.output_text.delta', item_id: 'b', delta: 'two' },
      { type: 'response.output_text.done', item_id: 'a', text: 'one ' },
      closing('completed'),
    ],
    { text: 'one two' },
  ],
  [
    'events that nobody knows, and those of built-in tools',
    [
      created,
      { type: 'response.something_new', value: 1 },
      added(0, { id: 'ws_0', type: 'web_search_call', status: 'in_progress' }),
      { type: 'response.web_search_call.searching', output_index: 0, item_id: 'ws_0' },
      ...messageEvents(1, 'x'),
      closing('completed'),
    ],
    { text: 'x' },
  ],
];

t.test('every stream of the specification is read, whole, in any pieces, and byte by byte', async (t) => {
  for (const [name, events, expected] of STREAMS) {
    const bytes = bytesOf(...events);
    const whole = decode([bytes]);
    t.equal(whole.error, undefined, `${name}: no error`);
    t.match(whole, { text: '', reasoning: '', toolCalls: [], ...expected }, name);
    t.equal(whole.toolCalls.length, (expected as Partial<Collected>).toolCalls?.length ?? 0, `${name}: calls`);
    const { thinking: _, ...content } = whole;
    const same = (pieces: Buffer[]) => {
      const { thinking: __, ...cut } = decode(pieces);
      t.same(cut, content, `${name}: in pieces`);
    };
    same([...bytes].map((byte) => Buffer.from([byte])));
    fc.assert(
      fc.property(fc.array(fc.nat(bytes.length), { maxLength: 20 }), (cuts) => {
        const places = [0, ...cuts.sort((a, b) => a - b), bytes.length];
        const { thinking: __, ...cut } = decode(places.slice(1).map((end, i) => bytes.subarray(places[i], end)));
        return JSON.stringify(cut) === JSON.stringify(content);
      }),
      { seed: SEED, numRuns: 50 },
    );
  }
});

t.test('an answer that is not streamed is read as one document', async (t) => {
  const response = closing('completed', [message(0, 'whole'), call(1, '{"a":1}')]).response;
  for (const bytes of [JSON.stringify(response), `data: ${JSON.stringify(response)}\n\n`]) {
    const decoded = decode([Buffer.from(bytes)]);
    t.match(decoded, { text: 'whole', toolCalls: [{ id: 'call_1' }], finish: { reason: 'tool_calls', ...FINISHED } });
    t.equal(decoded.error, undefined);
  }
});

const ERROR = { code: 'server_error', message: 'SECRET' };
/** Streams that fail, and the code of the error. */
const FAILURES: [name: string, events: object[], code: string, retryable: boolean][] = [
  [
    'response.failed',
    [created, ...messageEvents(0, 'x'), closing('failed', [], { error: ERROR })],
    'upstream_error',
    true,
  ],
  ['response.failed without an error', [created, closing('failed')], 'upstream_error', true],
  ['response.cancelled', [created, closing('cancelled')], 'upstream_error', true],
  ['an error event', [created, { type: 'error', ...ERROR, param: null }], 'upstream_error', true],
  [
    'an error event of the request',
    [created, { type: 'error', error: { type: 'invalid_request_error', code: 'x', message: 'SECRET' } }],
    'upstream_error',
    false,
  ],
  ['an error without a type', [{ error: { ...ERROR, type: 'server_error' } }], 'upstream_error', true],
  ['no last event', [created, ...messageEvents(0, 'x')], 'upstream_truncated', true],
  ['nothing but a start', [created], 'upstream_truncated', true],
  ['a completed answer with nothing in it', [], 'upstream_truncated', true],
  ['a second start after text', [created, ...messageEvents(0, 'x'), created], 'upstream_protocol', true],
  [
    'a call without a name',
    [created, done(0, { type: 'function_call', id: 'f', arguments: '{}' }), closing('completed')],
    'upstream_protocol',
    true,
  ],
];

t.test('a failure is an error, with what was delivered before it', async (t) => {
  for (const [name, events, code, retryable] of FAILURES) {
    const { error, text } = decode([bytesOf(...events)]);
    t.ok(error instanceof ProviderError, name);
    t.match(error, { code, retryable }, name);
    t.notMatch((error as Error).message, 'SECRET');
    t.equal(text, JSON.stringify(events).includes('output_text.delta') ? 'x' : '', `${name}: text`);
  }
});

t.test('what follows the last event, and [DONE], are not read', async (t) => {
  const bytes = Buffer.concat([
    bytesOf(created, ...messageEvents(0, 'x'), closing('completed')),
    Buffer.from('data: [DONE]\n\n'),
    bytesOf({ type: 'error', ...ERROR }),
  ]);
  t.match(decode([bytes]), { text: 'x', error: undefined, finish: { reason: 'stop' } });
  const early = Buffer.concat([
    Buffer.from('data: [DONE]\n\n'),
    bytesOf(created, ...messageEvents(0, 'x'), closing('completed')),
  ]);
  t.match(decode([early]), { text: 'x', error: undefined }, '[DONE] has no meaning in this API');
});

t.test('a reasoning item and its summaries say that the model is thinking, nothing else does', async (t) => {
  t.equal(decode([bytesOf(created, added(0, reasoning(0)))]).thinking, 1);
  t.ok(
    decode([
      bytesOf(created, added(0, reasoning(0, undefined, 'x')), {
        type: 'response.reasoning_summary_text.delta',
        delta: 'x',
      }),
    ]).thinking > 0,
  );
  t.equal(decode([bytesOf(created, inProgress, queued, added(0, message(0, '')))]).thinking, 0);
  t.equal(decode([bytesOf(created, added(0, reasoning(0)), ...messageEvents(1, 'x'))]).thinking, 0, 'until content');
});
