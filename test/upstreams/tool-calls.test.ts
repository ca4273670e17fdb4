import { createOpenAICompatible as createSdkProvider } from '@ai-sdk/openai-compatible';
import { jsonSchema, streamText, tool } from 'ai';
import fc from 'fast-check';
import OpenAI from 'openai';
import t from 'tap';
import type { ToolCallPart } from '../../providers/types.ts';
import { createPartBuffer } from '../../providers/wire/parts.ts';
import { createToolCalls, type ToolCallDelta } from '../../providers/wire/tool-calls.ts';
import { checkAll, play, type UpstreamCase } from './play.ts';
import { anthropic, ollama, openai } from './wire.ts';

/** Tool calls in every notation that providers use. Reports of the inputs are named. */

const { calls, finish, done, text } = openai;
const OSLO = { name: 'get_weather', arguments: '{"city":"Oslo"}' };
const TIME = { name: 'get_time', arguments: '{"zone":"CET"}' };
const fn = (name: unknown, args?: unknown) => ({
  ...(name !== undefined && { name }),
  ...(args !== undefined && { arguments: args }),
});
const delta = (index: number | undefined, id: string | undefined, name: unknown, args?: unknown): ToolCallDelta => ({
  ...(index !== undefined && { index }),
  ...(id !== undefined && { id }),
  function: fn(name, args),
});
const both = { calls: [OSLO, TIME], finish: 'tool_calls' };
const one = { calls: [OSLO], finish: 'tool_calls' };
const answer = (...deltas: ToolCallDelta[]) => [...deltas.map((one) => calls(one)), finish('tool_calls'), done];

const CASES: UpstreamCase[] = [
  {
    name: 'index 0 twice, other ids (ollama#15457)',
    body: answer(delta(0, 'a', 'get_weather', OSLO.arguments), delta(0, 'b', 'get_time', TIME.arguments)),
    expected: both,
  },
  {
    name: 'index 0 twice, the id on every fragment (lmdeploy#3412)',
    body: answer(
      delta(0, '0', 'get_weather', ''),
      delta(0, '0', null, '{"city":'),
      delta(0, '0', null, '"Oslo"}'),
      delta(0, '1', 'get_time', ''),
      delta(0, '1', null, TIME.arguments),
    ),
    expected: both,
  },
  {
    name: 'index 0 twice, empty ids on fragments (lmdeploy#3412)',
    body: answer(
      delta(0, 'a', 'get_weather', ''),
      delta(0, '', null, OSLO.arguments),
      delta(0, 'b', 'get_time', ''),
      delta(0, '', null, TIME.arguments),
    ),
    expected: both,
  },
  {
    name: 'the head says index 0, the tail index 1 (agno#8880)',
    body: answer(
      delta(0, 'a', 'get_weather', OSLO.arguments),
      delta(0, 'b', 'get_time', '{"zone":'),
      delta(1, undefined, undefined, '"CET"}'),
    ),
    expected: both,
  },
  {
    name: 'no index, and `stop` at the end (python-genai#2868)',
    body: [
      calls(delta(undefined, 'a', 'get_weather', OSLO.arguments), delta(undefined, 'b', 'get_time', TIME.arguments)),
      finish('stop'),
      done,
    ],
    expected: both,
  },
  {
    name: 'no index, fragments without an id (open-webui/computer#224)',
    body: answer(delta(undefined, 'a', 'get_weather', '{"city":'), delta(undefined, undefined, undefined, '"Oslo"}')),
    expected: one,
  },
  {
    name: 'neither index nor id, in one delta (term-llm#314)',
    body: [
      calls(
        delta(undefined, undefined, 'get_weather', OSLO.arguments),
        delta(undefined, undefined, 'get_time', TIME.arguments),
      ),
      finish('tool_calls'),
      done,
    ],
    expected: both,
  },
  {
    name: 'neither index nor id, in two deltas',
    body: answer(
      delta(undefined, undefined, 'get_weather', OSLO.arguments),
      delta(undefined, undefined, 'get_time', TIME.arguments),
    ),
    expected: both,
  },
  {
    name: 'an index without an id (continue#13225)',
    body: answer(delta(0, undefined, 'get_weather', OSLO.arguments), delta(1, undefined, 'get_time', TIME.arguments)),
    expected: both,
  },
  {
    name: 'the same tool twice',
    body: answer(
      delta(undefined, undefined, 'get_weather', OSLO.arguments),
      delta(undefined, undefined, 'get_weather', OSLO.arguments),
    ),
    expected: { calls: [OSLO, OSLO], finish: 'tool_calls' },
  },
  {
    name: 'the name after the first arguments (vercel/ai#14722)',
    body: answer(delta(0, 'a', undefined, '{"city"'), delta(0, undefined, 'get_weather', ':"Oslo"}')),
    expected: one,
  },
  {
    name: 'an empty name, and the real one later (vercel/ai#16507)',
    body: answer(
      delta(0, 'a', '', '{'),
      delta(0, undefined, 'get_weather', ''),
      delta(0, undefined, undefined, '"city":"Oslo"}'),
    ),
    expected: one,
  },
  {
    name: 'the name in pieces, and repeated',
    body: answer(
      delta(0, 'a', 'get_', ''),
      delta(0, undefined, 'weather', ''),
      delta(0, undefined, 'get_weather', '{"city":'),
      delta(0, undefined, 'get_weather', '"Oslo"}'),
    ),
    expected: one,
  },
  {
    name: '`{}` before the arguments (openai-agents-js#712)',
    body: answer(
      delta(0, 'a', 'get_weather', '{}'),
      delta(0, undefined, undefined, '{"city":'),
      delta(0, undefined, undefined, '"Oslo"}'),
    ),
    expected: one,
  },
  {
    name: '`{}` and nothing else',
    body: answer(delta(0, 'a', 'list_all', '{}')),
    expected: { calls: [{ name: 'list_all', arguments: '{}' }], finish: 'tool_calls' },
  },
  {
    name: 'no arguments at all',
    body: answer(delta(0, 'a', 'list_all', '')),
    expected: { calls: [{ name: 'list_all', arguments: '' }], finish: 'tool_calls' },
  },
  {
    name: 'arguments as objects',
    body: answer(delta(0, 'a', 'get_weather', {}), delta(0, undefined, undefined, { city: 'Oslo' })),
    expected: one,
  },
  {
    name: 'null arguments at the end (ainovel-cli#52)',
    body: answer(delta(0, 'a', 'get_weather', OSLO.arguments), delta(0, '', undefined, null)),
    expected: one,
  },
  {
    name: 'the first index is 1 (pipecat#4987)',
    body: answer(delta(1, 'a', 'get_weather', OSLO.arguments), delta(2, 'b', 'get_time', TIME.arguments)),
    expected: both,
  },
  {
    name: 'arguments of 1.5 megabytes',
    body: answer(delta(0, 'a', 'write', JSON.stringify({ body: 'x'.repeat(1_500_000) }))),
    expected: {
      calls: [{ name: 'write', arguments: JSON.stringify({ body: 'x'.repeat(1_500_000) }) }],
      finish: 'tool_calls',
    },
  },
  {
    name: 'text, then calls',
    body: [text('Looking. '), ...answer(delta(0, 'a', 'get_weather', OSLO.arguments))],
    expected: { ...one, text: 'Looking. ' },
  },
  {
    name: 'a call without a name',
    body: answer(delta(0, 'a', undefined, '{}')),
    expected: { error: 'upstream_protocol', asked: 2 },
  },
  {
    name: 'blocks of Anthropic, interleaved with blocks that are no calls',
    provider: 'anthropic',
    body: [
      anthropic.start(),
      anthropic.tool('a', 'get_weather', ['', '{"city":', '"Oslo"}'], 1),
      anthropic.event({
        type: 'content_block_start',
        index: 2,
        content_block: { type: 'server_tool_use', id: 's', name: 'web_search', input: {} },
      }),
      anthropic.event({
        type: 'content_block_delta',
        index: 2,
        delta: { type: 'input_json_delta', partial_json: '{"q":1}' },
      }),
      anthropic.tool('b', 'get_time', [TIME.arguments], 3),
      anthropic.finish('tool_use'),
      anthropic.done,
    ],
    expected: both,
  },
  {
    name: 'calls of Ollama',
    provider: 'ollama',
    body: [
      ollama.line({
        message: { content: '', tool_calls: [{ function: { name: 'get_weather', arguments: { city: 'Oslo' } } }] },
      }),
      ollama.line({
        message: { content: '', tool_calls: [{ function: { name: 'get_time', arguments: { zone: 'CET' } } }] },
      }),
      ollama.done(),
    ],
    expected: both,
  },
];

t.test('tool calls', async (t) => checkAll(t, CASES));

/** A way in which providers mark the fragments of calls. */
type Style = (call: {
  index: number;
  id: string;
  name: string;
  isFirst: boolean;
}) => Omit<ToolCallDelta, 'function'> & { name?: string };

const STYLES: Readonly<Record<string, { mark: Style; interleaves: boolean }>> = {
  'index and id, once': {
    mark: ({ index, id, name, isFirst }) => ({ index, ...(isFirst && { id, name }) }),
    interleaves: true,
  },
  'index and id, repeated': { mark: ({ index, id, name }) => ({ index, id, name }), interleaves: true },
  'index only': { mark: ({ index, name, isFirst }) => ({ index, ...(isFirst && { name }) }), interleaves: true },
  'index from 1': {
    mark: ({ index, id, name, isFirst }) => ({ index: index + 1, ...(isFirst && { id, name }) }),
    interleaves: true,
  },
  'id only, repeated': { mark: ({ id, name, isFirst }) => ({ id, ...(isFirst && { name }) }), interleaves: true },
  'id only, once': { mark: ({ id, name, isFirst }) => (isFirst ? { id, name } : {}), interleaves: false },
  'index 0 for all, ids once': {
    mark: ({ id, name, isFirst }) => ({ index: 0, ...(isFirst && { id, name }) }),
    interleaves: false,
  },
  'index 0 for all, ids repeated': {
    mark: ({ id, name, isFirst }) => ({ index: 0, id, ...(isFirst && { name }) }),
    interleaves: true,
  },
  neither: { mark: ({ name, isFirst }) => (isFirst ? { name } : {}), interleaves: false },
};

const jsonObject = fc
  .dictionary(fc.string({ maxLength: 4 }), fc.oneof(fc.string({ maxLength: 6 }), fc.integer(), fc.constant({})), {
    minKeys: 1,
    maxKeys: 3,
  })
  .map((value) => JSON.stringify(value));
const meantCalls = fc.array(
  fc.record({
    name: fc.constantFrom('f', 'get_weather', 'get_time'),
    args: jsonObject,
    cuts: fc.array(fc.nat(40), { maxLength: 3 }),
    hasPlaceholder: fc.boolean(),
    isLate: fc.boolean(),
  }),
  { minLength: 1, maxLength: 4 },
);

/** Cuts text at positions. */
function pieces(value: string, cuts: readonly number[]): string[] {
  const at = [0, ...cuts.map((cut) => cut % value.length).sort((a, b) => a - b), value.length];
  return at
    .slice(1)
    .map((end, i) => value.slice(at[i], end))
    .filter((piece) => piece !== '');
}

t.test('calls are exactly those that were meant, in every style and however the arguments are cut', async (t) => {
  for (const [name, { mark, interleaves }] of Object.entries(STYLES)) {
    const hasOwnIndex = /^index (and id|from 1)/.test(name);
    const property = fc.property(meantCalls, fc.infiniteStream(fc.nat(3)), (meant, order) => {
      const queues = meant.map(({ name, args, cuts, hasPlaceholder, isLate }, index) => {
        const id = `call_${index}`;
        const fragments: ToolCallDelta[] = pieces(args, cuts).map((piece, i) => {
          const { name: marked, ...rest } = mark({ index, id, name, isFirst: i === 0 });
          return { ...rest, function: fn(marked, piece) };
        });
        const [first] = fragments;
        const hasIndexOrId = first?.index !== undefined || first?.id !== undefined;
        // A name that comes late needs an index and an id that say whose it is.
        if (isLate && hasOwnIndex && first?.function?.name !== undefined) {
          const { function: f, ...rest } = first;
          fragments.splice(
            0,
            1,
            { ...rest, function: fn(undefined, f?.arguments) },
            { ...rest, function: fn(f?.name) },
          );
        }
        if (hasPlaceholder && hasIndexOrId && first)
          fragments.unshift({ ...first, function: fn(first.function?.name, '{}') });
        return fragments;
      });
      const parts = createPartBuffer();
      const assembler = createToolCalls(parts);
      const started = queues.map(() => false);
      while (queues.some((queue) => queue.length > 0)) {
        const open = queues.map((queue, i) => (queue.length > 0 ? i : -1)).filter((i) => i >= 0);
        // Calls begin in their order; later fragments may interleave.
        const begun = open.filter((i) => started[i] || i === started.indexOf(false));
        const next = interleaves
          ? (begun[(order.next().value as number) % begun.length] as number)
          : (open[0] as number);
        started[next] = true;
        assembler.add([queues[next]?.shift()]);
      }
      assembler.flush();
      const got: { name: string; args: string }[] = [];
      for (const part of parts.flush() as ToolCallPart[]) {
        if (part.name !== undefined) got[part.index] = { name: part.name, args: '' };
        const call = got[part.index];
        if (call === undefined) throw new Error('arguments before the name');
        call.args += part.arguments;
      }
      const sorted = (list: { name: string; args: string }[]) => list.map(({ name, args }) => `${name} ${args}`).sort();
      const expected = sorted(meant.map(({ name, args }) => ({ name, args })));
      if (JSON.stringify(sorted(got)) !== JSON.stringify(expected)) {
        throw new Error(`got ${JSON.stringify(sorted(got))}, meant ${JSON.stringify(expected)}`);
      }
    });
    t.doesNotThrow(() => fc.assert(property, { numRuns: Number(process.env.RUNS ?? 200) }), name);
  }
});

t.test('the official SDKs read calls whose marks are wrong', async (t) => {
  const body = answer(
    delta(1, 'a', undefined, '{"city"'),
    delta(1, undefined, 'get_weather', ':"Oslo"}'),
    delta(1, 'b', 'get_time', '{}'),
    delta(1, 'b', undefined, TIME.arguments),
  );
  const { url } = await play(t, { body });
  const stream = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any' }).chat.completions.stream({
    model: 'p/m',
    messages: [{ role: 'user', content: 'q' }],
  });
  const { choices } = await stream.finalChatCompletion();
  t.match(choices[0]?.message.tool_calls, [{ function: OSLO }, { function: TIME }], 'openai');

  const provider = createSdkProvider({ name: 'sluice', baseURL: `${url}/v1`, apiKey: 'any' });
  const anyTool = tool({ inputSchema: jsonSchema<object>({ type: 'object' }), execute: undefined as never });
  const result = streamText({
    model: provider('p/m'),
    prompt: 'q',
    tools: { get_weather: anyTool, get_time: anyTool },
  });
  const called = (await result.toolCalls).map(({ toolName, input }) => [toolName, input]);
  t.same(
    called,
    [
      ['get_weather', { city: 'Oslo' }],
      ['get_time', { zone: 'CET' }],
    ],
    'ai',
  );
});
