import fc from 'fast-check';
import t from 'tap';
import type { AppendSlice, ContentPart, Slice, Stream, Terminal } from '../../plugins/streams/api.ts';
import { createChunkEncoder, createCompletionCollector } from '../../routes/v1/answer.ts';
import { manualDate } from '../manual-date.ts';
import { answer, counts, END, FAILED, STREAM, slicesOf } from '../responses/answers.ts';

/** Chunks and whole answers of `/v1/chat/completions`, of every answer. */

// biome-ignore lint/suspicious/noExplicitAny: chunks of every shape
type Chunk = any;
type End = Extract<Terminal, { type: 'end' }>;

const STREAM_OF_TEST = { id: STREAM, model: 'p/m' } as Stream;
const STATE = {
  provider: 'p',
  details: [{ type: 'reasoning.text', text: 'x' }],
  extraContent: { 0: { google: { thought_signature: 'S' } } },
};

function chunksOf(slices: readonly Slice[], includeUsage = true): Chunk[] {
  const failure = ({ code }: { code: string }) => ({ error: code });
  const encoder = createChunkEncoder(STREAM_OF_TEST, { includeUsage, failure });
  const data = slices.flatMap((slice) => encoder.encode(slice)).map((event) => String(event.data));
  return data.map((text) => (text === '[DONE]' ? text : JSON.parse(text)));
}

function wholeOf(slices: readonly AppendSlice[], terminal: End): Chunk {
  const collector = createCompletionCollector(STREAM_OF_TEST);
  for (const slice of slices) collector.add(slice);
  return JSON.parse(JSON.stringify(collector.completion(terminal)));
}

/** Joins the deltas as clients do. */
function messageOf(chunks: readonly Chunk[]): Chunk {
  const texts: Record<string, string> = {};
  const calls = new Map<number, Chunk>();
  let details: unknown;
  for (const { delta } of chunks.flatMap(({ choices = [] }) => choices)) {
    for (const name of ['content', 'refusal', 'reasoning_content'])
      if (delta[name]) texts[name] = (texts[name] ?? '') + delta[name];
    details ??= delta.reasoning_details;
    for (const { index, function: named, ...fields } of delta.tool_calls ?? []) {
      const call = calls.get(index) ?? { function: { name: '', arguments: '' } };
      calls.set(index, Object.assign(call, fields));
      call.function.name ||= named.name ?? '';
      call.function.arguments += named.arguments;
    }
  }
  const tool_calls = [...calls.values()];
  const { content = '', refusal, reasoning_content } = texts;
  return {
    role: 'assistant',
    content: content === '' && (tool_calls.length > 0 || refusal !== undefined) ? null : content,
    refusal: refusal ?? null,
    ...(reasoning_content && { reasoning_content }),
    ...(details !== undefined && { reasoning_details: details }),
    ...(tool_calls.length > 0 && { tool_calls }),
  };
}

t.test('the chunks of an answer add up to the whole answer', async (t) => {
  manualDate(t);
  const usage = { inputTokens: 5, outputTokens: 7, cachedTokens: 3, reasoningTokens: 2, cost: 0.5 };
  const terminal: fc.Arbitrary<End> = fc.record({
    type: fc.constant('end' as const),
    finishReason: fc.constantFrom('stop', 'length', 'tool_calls', 'content_filter', 'other', 'stopped'),
    usage: fc.constantFrom(undefined, usage, { inputTokens: 1, outputTokens: 2 }),
  });
  fc.assert(
    fc.property(answer, terminal, counts, fc.boolean(), (parts, last, sizes, includeUsage) => {
      const slices = slicesOf(parts, last, sizes);
      const chunks = chunksOf(slices, includeUsage);
      t.equal(chunks.pop(), '[DONE]');
      const whole = wholeOf(slices, last);
      const [choice] = whole.choices;
      t.same(messageOf(chunks), choice.message);
      const counted = includeUsage && last.usage ? chunks.pop() : undefined;
      t.same(counted?.choices, counted && []);
      if (includeUsage) t.same(counted?.usage, whole.usage);
      t.same(chunks[0].choices[0].delta, { role: 'assistant', content: '' }, 'the role comes first, and alone');
      for (const { id, object, created, model, choices } of chunks) {
        t.same([id, object, model], [whole.id, 'chat.completion.chunk', whole.model]);
        t.equal(created, whole.created);
        t.equal(choices[0].finish_reason !== null, choices === chunks.at(-1).choices, 'the reason comes last');
      }
      t.equal(chunks.at(-1).choices[0].finish_reason, choice.finish_reason);
    }),
  );
});

t.test('a whole answer has the fields of OpenAI', async (t) => {
  const parts: ContentPart[] = [
    { type: 'reasoning', text: 'hm' },
    { type: 'tool_call', index: 0, id: 'c0', name: 'look', arguments: '{}' },
  ];
  const usage = { inputTokens: 5, outputTokens: 7, cachedTokens: 3, reasoningTokens: 2, cost: 0.5 };
  const last: End = { ...END, finishReason: 'tool_calls', usage, state: STATE };
  const slices = slicesOf(parts, last, [1]);
  const before = Math.floor(Date.now() / 1000);
  const { created, ...whole } = wholeOf(slices, last);
  t.ok(created >= before && created <= Date.now() / 1000, 'Unix time in seconds');
  const call = { id: 'c0', type: 'function', function: { name: 'look', arguments: '{}' } };
  const message = {
    ...{ role: 'assistant', content: null, refusal: null, reasoning_content: 'hm' },
    reasoning_details: [{ type: 'reasoning.text', text: 'x', provider: 'p' }],
    tool_calls: [{ ...call, extra_content: { google: { thought_signature: 'S' }, sluice: { provider: 'p' } } }],
  };
  t.same(whole, {
    ...{ id: `chatcmpl-${STREAM}`, object: 'chat.completion', model: 'p/m' },
    choices: [{ index: 0, message, logprobs: null, finish_reason: 'tool_calls' }],
    usage: {
      ...{ prompt_tokens: 5, completion_tokens: 7, total_tokens: 12, cost: 0.5 },
      prompt_tokens_details: { cached_tokens: 3 },
      completion_tokens_details: { reasoning_tokens: 2 },
    },
  });
  t.same(messageOf(chunksOf(slices).slice(0, -1)), message, 'also in chunks');
  t.equal(wholeOf([], { ...END, finishReason: 'stopped' }).choices[0].finish_reason, 'stop', 'OpenAI has no stop');
  t.equal(wholeOf([], { ...END, usage: undefined }).usage, undefined);
});

t.test('an answer has no field that it has no value for', async (t) => {
  const usage = { inputTokens: 1, outputTokens: 2 };
  t.same(wholeOf([], { ...END, usage }).usage, { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 });
  const refused = wholeOf(slicesOf([{ type: 'text', text: 'No.', isRefusal: true }], END, [1]), END);
  t.match(refused.choices[0].message, { content: null, refusal: 'No.' });
  const deltasOf = (parts: ContentPart[], last: End) =>
    chunksOf(slicesOf(parts, last, [1]), false).flatMap(({ choices = [] }) => choices.map(({ delta }: Chunk) => delta));
  const { details, ...onlyExtras } = STATE;
  const end: End = { ...END, finishReason: 'tool_calls' };
  const [, withDetails] = deltasOf([], { ...end, state: { provider: 'p', details } });
  t.same(withDetails, { reasoning_details: [{ ...details[0], provider: 'p' }] });
  const [, withExtras] = deltasOf([], { ...end, state: onlyExtras });
  t.same(Object.keys(withExtras), ['tool_calls']);
  const call: ContentPart = { type: 'tool_call', index: 0, id: 'c0', name: 'look', arguments: '{' };
  const [, , rest] = deltasOf([call, { type: 'tool_call', index: 0, arguments: '}' }], end);
  t.same(rest, { tool_calls: [{ index: 0, function: { arguments: '}' } }] }, 'only the first fragment names the call');
});

t.test('the name of a call may come behind its id, and only once', async (t) => {
  const parts: ContentPart[] = [
    { type: 'tool_call', index: 0, id: 'c0', arguments: '{' },
    { type: 'tool_call', index: 0, name: 'look', arguments: '}' },
    { type: 'tool_call', index: 0, name: 'other', arguments: '' },
  ];
  const { message } = wholeOf(slicesOf(parts, END, [1]), END).choices[0];
  t.same(message.tool_calls, [{ id: 'c0', type: 'function', function: { name: 'look', arguments: '{}' } }]);
});

t.test('a failure is the last event, without [DONE], and without the role if nothing came before', async (t) => {
  t.same(chunksOf(slicesOf([], FAILED, [1])), [{ error: 'upstream_failed' }]);
  const chunks = chunksOf(slicesOf([{ type: 'text', text: 'a' }], FAILED, [1]));
  t.match(chunks.slice(1), [
    { choices: [{ delta: { content: 'a' }, finish_reason: null }] },
    { error: 'upstream_failed' },
  ]);
  t.equal(chunks.length, 3);
});

t.test('a silence is a chunk without content, and the first one has the role', async (t) => {
  const encoder = createChunkEncoder(STREAM_OF_TEST, { includeUsage: false, failure: () => ({}) });
  const deltaOf = () => JSON.parse(String(encoder.heartbeat().data)).choices[0].delta;
  t.same(deltaOf(), { role: 'assistant', content: '' });
  t.same(deltaOf(), {});
  const [slice] = slicesOf([{ type: 'text', text: 'a' }], END, [1]);
  t.equal(encoder.encode(slice as AppendSlice).length, 1, 'the role comes once');
});
