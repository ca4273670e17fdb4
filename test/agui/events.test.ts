import fc from 'fast-check';
import type { EventMessage } from 'fastify';
import t from 'tap';
import type { ContentPart, Slice, Terminal } from '../../plugins/streams/api.ts';
import { Segments } from '../../plugins/streams/memory/segments.ts';
import { partSize } from '../../plugins/streams/units.ts';
import { parseEventId, type ResumePoint } from '../../routes/agui/event-id.ts';
import { AguiEncoder } from '../../routes/agui/events.ts';
import { startedEvent } from '../../routes/agui/run-events.ts';
import { noClients } from '../clients/packages.ts';
import { applyEvents } from './agent.ts';

/** AG-UI events of every answer, whatever was merged and wherever it was cut. */

const STREAM = { id: 'A'.repeat(22), model: 'm' };
const RUN = { threadId: 't', runId: 'r' };
const OPTIONS = { stream: STREAM, run: RUN };
const URLS = { url: '/u', stopUrl: '/s' };

// biome-ignore lint/suspicious/noExplicitAny: events of every shape
type Parsed = { id: string | undefined; event: any };

const parse = ({ id, data }: EventMessage): Parsed => ({ id, event: JSON.parse(String(data)) });

/** Returns the answer in slices, merged as a log merges it, of at most the given numbers of units. */
function slicesOf(parts: readonly ContentPart[], terminal: Terminal, limits: readonly number[]): Slice[] {
  const segments = new Segments();
  for (const part of parts) segments.append(part);
  const slices: Slice[] = [];
  let position = 0;
  for (let i = 0; position < segments.length; i++) {
    const sliced = segments.slice(position, limits[i % limits.length] ?? 1).map((part) => {
      position += partSize(part);
      return { part, position };
    });
    slices.push({ parts: sliced });
  }
  return [...slices, { parts: [], terminal }];
}

/** Reads behind an event; the whole answer by default. */
function read(slices: readonly Slice[], after?: ResumePoint['after']): Parsed[] {
  const encoder = new AguiEncoder({ ...OPTIONS, after });
  const opening = after === undefined ? [startedEvent(OPTIONS, URLS)] : [];
  return [...opening, ...slices.flatMap((slice) => encoder.encode(slice))].map(parse);
}

/** Joins adjacent contents of one message or call: how they are divided means nothing. */
function joined(events: readonly Parsed[]): Parsed[] {
  const all: Parsed[] = [];
  for (const { id, event } of events) {
    const last = all.at(-1)?.event;
    const isSame = last?.messageId === event.messageId && last?.toolCallId === event.toolCallId;
    if (event.delta !== undefined && last?.type === event.type && isSame) {
      all[all.length - 1] = { id, event: { ...event, delta: last.delta + event.delta } };
    } else all.push({ id, event });
  }
  return all;
}

const content = fc.string({ unit: fc.constantFrom('a', '你', '🚀', '"', '\n', '\u2028'), maxLength: 6 });
const textPart = fc.record({ type: fc.constantFrom('text' as const, 'reasoning' as const), text: content });
const fragment = fc.oneof(content, fc.constantFrom('', '{"a":1}'));
/** Fragments of up to three calls, in any order; the first one of a call has its head. */
const answer = fc
  .array(
    fc.oneof(textPart, fc.record({ type: fc.constant('tool_call' as const), index: fc.nat(2), arguments: fragment })),
    {
      maxLength: 14,
    },
  )
  .map((parts) => {
    const seen = new Set<number>();
    return parts.map((part): ContentPart => {
      if (part.type !== 'tool_call' || seen.has(part.index)) return part;
      seen.add(part.index);
      return { ...part, id: `c${part.index}`, name: 'look' };
    });
  });

const END: Terminal = { type: 'end', finishReason: 'stop', usage: { inputTokens: 1, outputTokens: 2 } };
const FAILED: Terminal = { type: 'error', code: 'upstream_failed', message: 'no', retryable: true, status: 502 };
const terminal = fc.constantFrom(END, { ...END, finishReason: 'stopped' as const }, FAILED);
const limits = fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 5 });

t.test('a reader that was cut anywhere gets the events of one whole reading', async (t) => {
  fc.assert(
    fc.property(answer, terminal, limits, limits, fc.nat(), (parts, last, first, second, cut) => {
      const whole = read(slicesOf(parts, last, first));
      const before = whole.slice(0, 1 + (cut % whole.length));
      const id = parseEventId(before.at(-1)?.id ?? '');
      if (id?.stream !== STREAM.id) throw new Error(`not an event id: ${before.at(-1)?.id}`);
      const rest = id.after === 'end' ? [] : read(slicesOf(parts, last, second), id.after);
      t.same(joined([...before, ...rest]), joined(whole));
      t.same(joined(read(slicesOf(parts, last, second))), joined(whole), 'merging changes no id');
    }),
  );
});

t.test('ids rise, and no two events have the same', async (t) => {
  fc.assert(
    fc.property(answer, terminal, limits, (parts, last, sizes) => {
      const places = read(slicesOf(parts, last, sizes)).map(({ id = '' }) => parseEventId(id)?.after);
      t.equal(places.pop(), 'end');
      for (const [i, place] of places.entries()) {
        const previous = places[i - 1];
        if (typeof place !== 'object') throw new Error('an event without a place');
        if (typeof previous !== 'object') continue;
        const rises = place.position > previous.position || place.number > previous.number;
        t.ok(rises && place.position >= previous.position, `${JSON.stringify(previous)} ${JSON.stringify(place)}`);
      }
    }),
  );
});

t.test('a client that has the last event gets it again, without an id', async (t) => {
  const slices = slicesOf([{ type: 'text', text: 'abc' }], END, [2]);
  t.match(read(slices, 'end'), [{ id: undefined, event: { type: 'RUN_FINISHED', ...RUN } }]);
  t.equal(read(slices, 'end').length, 1);
});

t.test('a part without content makes no event', async (t) => {
  const last: Slice = { parts: [{ part: { type: 'reasoning', text: 'x' }, position: 1 }], terminal: END };
  const empty: ContentPart[] = [
    { type: 'text', text: '' },
    { type: 'tool_call', index: 0, arguments: '' },
  ];
  t.same(read([{ parts: empty.map((part) => ({ part, position: 0 })) }, last]), read([last]));
});

t.test('slices that the client has are skipped, and no other', async (t) => {
  const slices = slicesOf([{ type: 'text', text: 'abcdef' }], END, [2]);
  const encoder = new AguiEncoder({ ...OPTIONS, after: { position: 5, number: 0 } });
  const skipped = slices.map((slice) => {
    const skips = encoder.isCatchingUp && encoder.skips(slice);
    encoder.encode(slice);
    return skips;
  });
  t.same(skipped, [true, true, false, false]);
});

t.test('events pass the schemas and the verifier of AG-UI, and make the answer', { skip: noClients }, async (t) => {
  await fc.assert(
    fc.asyncProperty(answer, terminal, limits, async (parts, last, sizes) => {
      const events = read(slicesOf(parts, last, sizes)).map(({ event }) => event);
      const { messages, warnings } = await applyEvents(events);
      t.same(warnings, []);
      const textOf = (type: string) =>
        parts.map((part) => (part.type === type && 'text' in part ? part.text : '')).join('');
      const contentOf = (role: string) =>
        messages.map((message) => (message.role === role ? (message.content ?? '') : '')).join('');
      t.equal(contentOf('assistant'), textOf('text'));
      t.equal(contentOf('reasoning'), textOf('reasoning'));
      const argumentsOf = new Map<string, string>();
      for (const part of parts) {
        if (part.type !== 'tool_call') continue;
        const id = `c${part.index}`;
        argumentsOf.set(id, (argumentsOf.get(id) ?? '') + part.arguments);
      }
      const calls = messages.flatMap(({ toolCalls = [] }) => toolCalls);
      t.equal(calls.length, argumentsOf.size);
      for (const call of calls) {
        const sent = argumentsOf.get(call.id) ?? '';
        t.ok([sent, sent || '{}'].includes(call.function.arguments), `the arguments of ${call.id}`);
      }
    }),
    { numRuns: 40 },
  );
});

const CALL: ContentPart = { type: 'tool_call', index: 0, id: 'c0', name: 'look', arguments: '{"at":1}' };

t.test('reasoning, text and calls', async (t) => {
  const parts: ContentPart[] = [
    { type: 'reasoning', text: 'hm' },
    { type: 'text', text: 'Let me look.' },
    CALL,
    { type: 'tool_call', index: 1, id: 'c1', name: 'ask', arguments: '' },
  ];
  const state = { provider: 'p', details: [{ type: 'reasoning.text', text: 'x' }], extraContent: { 1: { google: 1 } } };
  const end: Terminal = {
    type: 'end',
    finishReason: 'tool_calls',
    state,
    targets: ['p/m'],
    usage: { cachedTokens: 3 },
  };
  const events = read(slicesOf(parts, end, [100]));
  const place = ({ id = '' }: Parsed) => id.slice(STREAM.id.length + 1);
  t.same(
    events.map((one) => `${place(one)} ${one.event.type}`),
    [
      '0 RUN_STARTED',
      '0.1 REASONING_START',
      '0.2 REASONING_MESSAGE_START',
      '2 REASONING_MESSAGE_CONTENT',
      '2.1 REASONING_MESSAGE_END',
      '2.2 REASONING_END',
      '2.3 TEXT_MESSAGE_START',
      '14 TEXT_MESSAGE_CONTENT',
      '14.1 TEXT_MESSAGE_END',
      '15 TOOL_CALL_START',
      '23 TOOL_CALL_ARGS',
      '24 TOOL_CALL_START',
      '24.1 REASONING_ENCRYPTED_VALUE',
      '24.2 TOOL_CALL_END',
      '24.3 CUSTOM',
      '24.4 TOOL_CALL_ARGS',
      '24.5 REASONING_ENCRYPTED_VALUE',
      '24.6 TOOL_CALL_END',
      '24.7 CUSTOM',
      'end RUN_FINISHED',
    ],
  );
  const bodies = events.map(({ event }) => event);
  t.match(bodies[0], {
    ...RUN,
    protocolVersion: '1.0',
    metadata: { sluice: { stream: STREAM.id, model: 'm', ...URLS } },
  });
  t.match(
    bodies.filter(({ type }) => type === 'CUSTOM').map(({ value }) => value),
    [
      { toolCallId: 'c0', toolName: 'look', input: { at: 1 } },
      { toolCallId: 'c1', toolName: 'ask', input: {} },
    ],
  );
  const values = bodies.filter(({ type }) => type === 'REASONING_ENCRYPTED_VALUE');
  t.same(
    values.map(({ entityId }) => entityId),
    ['c0', 'c1'],
  );
  t.same(
    values.map(({ encryptedValue }) => JSON.parse(encryptedValue)),
    [
      { provider: 'p', details: state.details },
      { provider: 'p', extraContent: { google: 1 } },
    ],
  );
  t.same(bodies.at(-1), {
    type: 'RUN_FINISHED',
    ...RUN,
    result: { model: 'm', finishReason: 'tool_calls', usage: { cachedTokens: 3 }, targets: ['p/m'] },
    usage: [{ model: 'm', cachedInputTokens: 3 }],
  });
  const parents = bodies.filter(({ type }) => type === 'TOOL_CALL_START').map(({ parentMessageId }) => parentMessageId);
  t.same(parents, Array(2).fill(bodies.find(({ type }) => type === 'TEXT_MESSAGE_START')?.messageId));
});

t.test('a call that was cut off does not end', async (t) => {
  const cutOff: [ContentPart, Terminal][] = [
    [
      { ...CALL, arguments: '{"at":' },
      { ...END, finishReason: 'length' },
    ],
    [
      { ...CALL, arguments: '' },
      { ...END, finishReason: 'length' },
    ],
    [CALL, { ...END, finishReason: 'stopped' }],
    [{ ...CALL, arguments: '{"at"' }, END],
  ];
  for (const [part, last] of cutOff) {
    const events = read(slicesOf([part], last, [100])).map(({ event }) => event);
    t.match(events.at(-1), { type: 'RUN_ERROR', code: 'incomplete_tool_call' }, JSON.stringify(last));
    t.notOk(events.some(({ type }) => type === 'TOOL_CALL_END' || type === 'CUSTOM'));
  }
  const failed = read(slicesOf([CALL], { ...FAILED, retryAfterMs: 1_500, reason: 'x' }, [100])).map(
    ({ event }) => event,
  );
  t.notOk(failed.some(({ type }) => type === 'TOOL_CALL_END'));
  const sluice = { retryable: true, retryAfter: 2, reason: 'x' };
  t.same(failed.at(-1), { type: 'RUN_ERROR', code: 'upstream_failed', message: 'no', metadata: { sluice } });
});

t.test('ids of events', async (t) => {
  const stream = STREAM.id;
  t.same(parseEventId(`${stream}.7`), { stream, after: { position: 7, number: 0 } });
  t.same(parseEventId(`${stream}.7.12`), { stream, after: { position: 7, number: 12 } });
  t.same(parseEventId(`${stream}.end`), { stream, after: 'end' });
  for (const text of [
    '',
    stream,
    `${stream}.`,
    `${stream}.x`,
    `${stream}.1.x`,
    `${stream}.1.2.3`,
    'short.1',
    `${stream}.end.1`,
  ]) {
    t.equal(parseEventId(text), undefined, text);
  }
});
