import fc from 'fast-check';
import { accumulateResponse } from 'openai/lib/responses/ResponseAccumulator';
import t from 'tap';
import type { ContentPart, Terminal } from '../../plugins/streams/api.ts';
import { appendMerged } from '../../plugins/streams/units.ts';
import { responseOf } from '../../routes/responses/events.ts';
import { outputItemId, responseIdOf, streamOfItem, streamOfResponse } from '../../routes/responses/ids.ts';
import { decodeStates, encodeState } from '../../routes/responses/reasoning-state.ts';
import { answer, CONTEXT, context, counts, END, FAILED, HEAD, read, STREAM, slicesOf, terminal } from './answers.ts';
import { checkGrammar, type Event } from './grammar.ts';

/** Events of every answer, however it is read and wherever a reader was cut. */

const typesOf = (events: readonly Event[]) => events.map(({ type }) => type.replace('response.', ''));
const readAll = (parts: readonly ContentPart[], last: Terminal, fields = {}) =>
  read(slicesOf(parts, last, [3]), { context: { ...CONTEXT, ...fields } });
const joinedOf = (parts: readonly ContentPart[], type: 'text' | 'reasoning', isRefusal?: true) =>
  parts.map((part) => (part.type === type && part.isRefusal === isRefusal ? part.text : '')).join('');
const deltasOf = (events: readonly Event[], type: string) =>
  events.map((event) => (event.type === `response.${type}.delta` ? event.delta : '')).join('');

t.test('events follow the specification, and add up to the answer', async (t) => {
  fc.assert(
    fc.property(answer, terminal, counts, context, (parts, last, sizes, context) => {
      const events = read(slicesOf(parts, last, sizes), { context });
      checkGrammar(events);
      t.equal(deltasOf(events, 'output_text'), joinedOf(parts, 'text'));
      t.equal(deltasOf(events, 'refusal'), joinedOf(parts, 'text', true));
      t.equal(deltasOf(events, 'reasoning_summary_text'), joinedOf(parts, 'reasoning'));
      const calls = events.at(-1).response.output.filter((item: Event) => item.type === 'function_call');
      const indexes = [...new Set(parts.flatMap((part) => (part.type === 'tool_call' ? [part.index] : [])))];
      t.same(
        calls.map((call: Event) => call.call_id),
        indexes.map((index) => `c${index}`),
      );
    }),
  );
});

t.test('a reader that was cut anywhere gets the rest of the same events', async (t) => {
  fc.assert(
    fc.property(answer, terminal, counts, counts, context, (parts, last, first, second, context) => {
      const whole = read(slicesOf(parts, last, first), { context });
      for (const after of whole.keys()) {
        const rest = read(slicesOf(parts, last, second), { context, after });
        t.same(rest, whole.slice(after + 1), `behind ${after}`);
      }
    }),
    { numRuns: 50 },
  );
});

t.test('a reader that names an event behind the last one gets the last one', async (t) => {
  const slices = slicesOf([{ type: 'text', text: 'a' }], END, [1]);
  const whole = read(slices);
  t.same(read(slices, { after: whole.length }), whole.slice(-1));
  t.same(read(slices, { after: whole.length - 1 }), [], 'one that has it gets nothing');
});

t.test('the SDK makes the last response of the events before it', async (t) => {
  fc.assert(
    fc.property(
      answer,
      fc.constantFrom<Terminal>(END, { ...END, finishReason: 'tool_calls' }),
      context,
      (parts, last, context) => {
        const events = read(slicesOf(parts, last, [2]), { context });
        let snapshot: Event;
        for (const event of events.slice(0, -1)) snapshot = accumulateResponse(event, snapshot);
        t.same(snapshot.output, events.at(-1).response.output);
      },
    ),
  );
});

t.test('a response that is read whole equals that of the last event', async (t) => {
  fc.assert(
    fc.property(answer, terminal, context, (parts, last, context) => {
      const merged: ContentPart[] = [];
      for (const part of parts) appendMerged(merged, part);
      const events = read(slicesOf(parts, last, [2]), { context });
      const whole = responseOf(HEAD, context, { parts: merged, terminal: last });
      t.same(JSON.parse(JSON.stringify(whole)), events.at(-1).response);
    }),
  );
});

t.test('only a completed response has the time of its end', async (t) => {
  for (const [last, expected] of [
    [END, 7],
    [{ ...END, finishReason: 'length' }, undefined],
    [FAILED, undefined],
  ] as const) {
    const { completed_at } = responseOf(HEAD, CONTEXT, { parts: [], terminal: last, completedAt: 7 }) as Event;
    t.equal(completed_at, expected);
  }
});

const CALL: ContentPart = { type: 'tool_call', index: 0, id: 'c0', name: 'look', arguments: '{"at":1}' };

t.test('reasoning, text, a refusal and calls, one after another', async (t) => {
  const parts: ContentPart[] = [
    { type: 'reasoning', text: 'hm' },
    { type: 'text', text: 'Let me ' },
    { type: 'text', text: 'look.' },
    { type: 'text', text: 'No.', isRefusal: true },
    CALL,
    { type: 'tool_call', index: 1, id: 'c1', name: 'ask', arguments: '' },
  ];
  const events = readAll(parts, { ...END, finishReason: 'tool_calls' });
  t.same(typesOf(events), [
    'created',
    'in_progress',
    'output_item.added',
    'reasoning_summary_part.added',
    'reasoning_summary_text.delta',
    'reasoning_summary_text.done',
    'reasoning_summary_part.done',
    'output_item.done',
    'output_item.added',
    'content_part.added',
    'output_text.delta',
    'output_text.delta',
    'output_text.done',
    'content_part.done',
    'content_part.added',
    'refusal.delta',
    'refusal.done',
    'content_part.done',
    'output_item.done',
    'output_item.added',
    'function_call_arguments.delta',
    'function_call_arguments.done',
    'output_item.done',
    'output_item.added',
    'function_call_arguments.delta',
    'function_call_arguments.done',
    'output_item.done',
    'completed',
  ]);
  const id = (kind: 'message' | 'reasoning' | 'function_call', index: number) => outputItemId(kind, STREAM, index);
  t.same(events.at(-1).response.output, [
    { id: id('reasoning', 0), type: 'reasoning', summary: [{ type: 'summary_text', text: 'hm' }], status: 'completed' },
    {
      ...{ id: id('message', 1), type: 'message', status: 'completed', role: 'assistant' },
      content: [
        { type: 'output_text', annotations: [], logprobs: [], text: 'Let me look.' },
        { type: 'refusal', refusal: 'No.' },
      ],
    },
    {
      ...{ id: id('function_call', 2), type: 'function_call', status: 'completed', call_id: 'c0' },
      ...{ name: 'look', arguments: '{"at":1}' },
    },
    {
      ...{ id: id('function_call', 3), type: 'function_call', status: 'completed', call_id: 'c1' },
      ...{ name: 'ask', arguments: '{}' },
    },
  ]);
  t.match(events[0], { response: { id: responseIdOf(STREAM), status: 'in_progress', output: [], metadata: {} } });
  t.same(
    events.filter(({ type }) => type === 'response.output_item.added').map(({ item }) => item),
    [
      { id: id('reasoning', 0), type: 'reasoning', summary: [], status: 'in_progress' },
      { id: id('message', 1), type: 'message', status: 'in_progress', role: 'assistant', content: [] },
      ...['look', 'ask'].map((name, i) => ({
        ...{ id: id('function_call', 2 + i), type: 'function_call', status: 'in_progress', call_id: `c${i}` },
        ...{ name, arguments: '' },
      })),
    ],
    'a new item is empty',
  );
  const place = { item_id: id('message', 1), output_index: 1, content_index: 0 };
  const [delta] = events.filter(({ type }) => type === 'response.output_text.delta');
  const [done] = events.filter(({ type }) => type === 'response.output_text.done');
  t.same(delta, { type: delta.type, sequence_number: 10, ...place, delta: 'Let me ', logprobs: [] });
  t.same(done, { type: done.type, sequence_number: 12, ...place, text: 'Let me look.', logprobs: [] });
});

t.test('a response in the background is queued first', async (t) => {
  const events = readAll([], END, { background: true });
  t.same(typesOf(events), ['created', 'queued', 'in_progress', 'completed']);
  t.same(
    events.map(({ response }) => response.status),
    ['queued', 'queued', 'in_progress', 'completed'],
  );
});

t.test('the fragments of several calls may come in turn', async (t) => {
  const fragment = (index: number, args: string, head: object = {}): ContentPart => {
    return { type: 'tool_call', index, arguments: args, ...head };
  };
  const parts = [
    fragment(0, '{"a"', { id: 'c0', name: 'f' }),
    fragment(1, '{"b"', { id: 'c1', name: 'g' }),
    fragment(0, ':0}'),
    fragment(1, ':1}'),
  ];
  const events = readAll(parts, { ...END, finishReason: 'tool_calls' });
  checkGrammar(events);
  const done = events.filter(({ type }) => type === 'response.function_call_arguments.done');
  t.same(
    done.map((event) => [event.output_index, event.name, event.arguments]),
    [
      [0, 'f', '{"a":0}'],
      [1, 'g', '{"b":1}'],
    ],
  );
});

t.test('a call whose arguments are complete is done as soon as another one goes on', async (t) => {
  const parts: ContentPart[] = [
    { type: 'tool_call', index: 0, id: 'c0', name: 'f', arguments: '{"a"' },
    { type: 'tool_call', index: 1, id: 'c1', name: 'g', arguments: '{"b":1}' },
    { type: 'tool_call', index: 0, arguments: ':' },
  ];
  const { output } = readAll(parts, { ...END, finishReason: 'stopped' }).at(-1).response;
  t.match(output, [{ status: 'incomplete' }, { status: 'completed' }]);
});

t.test('a name may follow its call', async (t) => {
  const parts: ContentPart[] = [
    { type: 'tool_call', index: 0, id: 'c0', arguments: '{' },
    { type: 'tool_call', index: 0, name: 'look', arguments: '}' },
  ];
  const events = readAll(parts, { ...END, finishReason: 'tool_calls' });
  t.match(events.at(-1).response.output, [{ name: 'look', arguments: '{}', call_id: 'c0' }]);
  t.match(
    events.find(({ type }) => type === 'response.function_call_arguments.done'),
    { name: 'look' },
  );
});

t.test('the end of an answer is the status of its response', async (t) => {
  const text: ContentPart = { type: 'text', text: 'a' };
  const cases: [Terminal, event: string, status: string, details: unknown, item: string][] = [
    [END, 'completed', 'completed', null, 'completed'],
    [{ ...END, finishReason: 'tool_calls' }, 'completed', 'completed', null, 'completed'],
    [{ ...END, finishReason: 'length' }, 'incomplete', 'incomplete', { reason: 'max_output_tokens' }, 'incomplete'],
    [
      { ...END, finishReason: 'content_filter' },
      'incomplete',
      'incomplete',
      { reason: 'content_filter' },
      'incomplete',
    ],
    [{ ...END, finishReason: 'other' }, 'incomplete', 'incomplete', { reason: 'other' }, 'incomplete'],
    [{ ...END, finishReason: 'stopped' }, 'incomplete', 'cancelled', null, 'incomplete'],
    [FAILED, 'failed', 'failed', null, 'incomplete'],
  ];
  for (const [last, event, status, details, item] of cases) {
    const events = readAll([text], last);
    const end = events.at(-1);
    t.equal(end.type, `response.${event}`, status);
    t.equal(typesOf(events).includes('output_item.done'), status !== 'failed', 'what has failed is never done');
    t.match(end.response, { status, incomplete_details: details, output: [{ status: item }] });
  }
});

t.test('the error of a failed response has the words that clients look for', async (t) => {
  const cases: [fields: object, code: string][] = [
    [{}, 'upstream_failed'],
    [{ reason: 'context_length_exceeded' }, 'context_length_exceeded'],
    [{ code: 'upstream_rate_limited' }, 'rate_limit_exceeded'],
  ];
  for (const [fields, code] of cases) {
    const { error, usage } = readAll([], { ...FAILED, ...fields } as Terminal).at(-1).response;
    t.same(error, { code, message: 'no' });
    t.equal(usage, null);
  }
});

t.test('a call that was cut off is never done, because clients run a tool at that event', async (t) => {
  const cutOff: [args: string, finishReason: 'length' | 'stopped' | 'content_filter' | 'other'][] = [
    ['{"at":', 'length'],
    ['', 'length'],
    ['{"at":}', 'length'],
    ['1', 'length'],
    ['{"at":1}', 'stopped'],
    ['{"at":1}', 'content_filter'],
    ['', 'other'],
  ];
  for (const [args, finishReason] of cutOff) {
    const events = readAll([{ ...CALL, arguments: args }], { ...END, finishReason });
    checkGrammar(events);
    t.notOk(
      events.some(({ type }) => type.endsWith('.done')),
      `${finishReason} ${args}`,
    );
    t.match(events.at(-1).response.output, [{ status: 'incomplete', arguments: args }]);
  }
  for (const args of ['{"at":1}', '{"at":1}\n'])
    t.match(readAll([{ ...CALL, arguments: args }], { ...END, finishReason: 'length' }).at(-1).response.output, [
      { status: 'completed' },
    ]);
  t.match(
    readAll([CALL, { type: 'text', text: 'x' }], { ...END, finishReason: 'stopped' }).at(-1).response.output,
    [{ status: 'completed' }, { status: 'incomplete' }],
    'a call that another item follows is complete',
  );
});

t.test('tokens have the names of the specification', async (t) => {
  const usage = {
    inputTokens: 5,
    outputTokens: 7,
    cachedTokens: 3,
    reasoningTokens: 2,
    cacheWriteTokens: 1,
    cost: 0.5,
  };
  t.same(readAll([], { ...END, usage }).at(-1).response.usage, {
    input_tokens: 5,
    input_tokens_details: { cached_tokens: 3, cache_write_tokens: 1 },
    output_tokens: 7,
    output_tokens_details: { reasoning_tokens: 2 },
    total_tokens: 12,
    cost: 0.5,
  });
  t.equal(readAll([], { ...END, usage: undefined }).at(-1).response.usage, null);
});

t.test('the state of the provider is an item of its own, and only if it is asked for', async (t) => {
  const state = {
    provider: 'p',
    details: [{ type: 'reasoning.text', text: 'x', before: 0 }],
    extraContent: { 0: { g: 1 } },
  };
  const last: Terminal = { ...END, finishReason: 'tool_calls', state };
  const events = readAll([CALL], last, { hasState: true });
  const { output } = events.at(-1).response;
  const id = outputItemId('reasoning', STREAM, 1);
  t.match(output, [
    { type: 'function_call' },
    { id, type: 'reasoning', summary: [], encrypted_content: /^sluice1\.[\w-]+$/ },
  ]);
  t.match(
    events.filter(({ item }) => item?.id === id).map(({ item }) => item),
    [{ summary: [], status: 'in_progress', encrypted_content: undefined }, output[1]],
  );
  t.equal(readAll([CALL], last).at(-1).response.output.length, 1);
  const { encrypted_content: content } = output[1];
  t.same(decodeStates([content], ['c0']), state);
  t.same(decodeStates([content], ['other']), { provider: 'p', details: state.details }, 'a call that is not there');
  t.same(decodeStates([], ['c0']), undefined);
});

t.test('states of other services and broken ones are left out', async (t) => {
  const encode = (value: unknown) => `sluice1.${Buffer.from(JSON.stringify(value)).toString('base64url')}`;
  const broken = [
    'gAAAAB',
    'sluice1.',
    'sluice1.!',
    encode(null),
    encode([]),
    encode({ provider: 1, details: [{ type: 'x' }] }),
  ];
  for (const content of broken) t.equal(decodeStates([content], ['c0']), undefined, content);
  const odd = encode({
    provider: 'p',
    details: ['x', null, {}, { type: 'ok' }],
    calls: ['x', [], ['c0', 1], ['c0', { g: 1 }]],
  });
  t.same(decodeStates([odd], ['c0']), { provider: 'p', details: [{ type: 'ok' }], extraContent: { 0: { g: 1 } } });
  const other = encodeState({ provider: 'q', details: [{ type: 'ok' }] }, new Map());
  t.match(decodeStates([odd, other], []), { provider: 'p', details: { length: 1 } }, 'one provider in one turn');
});

t.test('ids name their stream', async (t) => {
  t.equal(streamOfResponse(responseIdOf(STREAM)), STREAM);
  for (const kind of ['message', 'reasoning', 'function_call'] as const) {
    t.equal(streamOfItem(outputItemId(kind, STREAM, 12)), STREAM);
  }
  t.equal(streamOfItem(`msg_${STREAM}_i3`), STREAM);
  for (const id of ['', STREAM, 'resp_', 'resp_short', `resp_${STREAM}/`, `xresp_${STREAM}`, `RESP_${STREAM}`])
    t.notOk(streamOfResponse(id), id);
  for (const id of [
    '',
    'msg_123',
    `msg_${STREAM}`,
    `msg_${STREAM}_`,
    `xx_${STREAM}_1`,
    `xmsg_${STREAM}_1`,
    `msg_${STREAM}_1x`,
  ])
    t.notOk(streamOfItem(id), id);
});
