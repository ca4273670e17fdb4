import t from 'tap';
import { createOllamaDecoder } from '../../providers/ollama.ts';
import type { AnswerState, ChatMessage, ProviderState } from '../../providers/types.ts';
import { anthropicBody } from '../../providers/wire/anthropic-body.ts';
import { createAnthropicDecoder } from '../../providers/wire/anthropic-stream.ts';
import { geminiBody } from '../../providers/wire/gemini-body.ts';
import { createGeminiDecoder } from '../../providers/wire/gemini-stream.ts';
import { createPartBuffer, type PartBuffer } from '../../providers/wire/parts.ts';
import type { AnswerDecoder } from '../../providers/wire/read-answer.ts';
import { anthropic, events, gemini, lines, ollama, startDialects } from './dialects.ts';
import { random, SEED, splitRandomly } from './random.ts';

/** Tests that a provider gets its own state back unchanged, and that thinking is reported. */

const MODEL = 'claude-sonnet-4-5-20250929';
const SONNET_4_5 = 'claude-sonnet-4-5';
const OPTIONS = { reasoning_effort: 'high' };
const USER: ChatMessage = { role: 'user', content: 'q' };

/** Decodes an answer in pieces of a length that `next` decides, and returns its state. */
function stateOf(
  createDecoder: (parts: PartBuffer) => AnswerDecoder,
  answer: string,
  next: () => number = () => 1,
): AnswerState | undefined {
  const decoder = createDecoder(createPartBuffer());
  for (const piece of splitRandomly(Buffer.from(answer), next, 64)) decoder.push(piece);
  decoder.end();
  return decoder.finish().state;
}

/** Returns the messages of the second step of a tool run. */
function secondStep(state: AnswerState | undefined, ids: readonly string[], text = ''): ChatMessage[] {
  const toolCalls = ids.map((id) => ({ id, name: 'f', arguments: '{"a":1}' }));
  const provider: ProviderState | undefined = state && { ...state, provider: 'p' };
  const answer = { role: 'assistant' as const, content: text, toolCalls, ...(provider && { state: provider }) };
  return [USER, answer, ...ids.map((id) => ({ role: 'tool' as const, toolCallId: id, name: 'f', content: '1' }))];
}

const toolBlocks = (index: number, id: string) => [
  anthropic.block(index, { type: 'tool_use', id, name: 'f', input: {} }),
  anthropic.delta(index, { type: 'input_json_delta', partial_json: '{"a":1}' }),
  anthropic.stop(index),
];

const thinkingBlocks = (index: number, thinking: readonly string[], signature: readonly string[]) => [
  anthropic.block(index, { type: 'thinking', thinking: '', signature: '' }),
  ...thinking.map((text) => anthropic.delta(index, { type: 'thinking_delta', thinking: text })),
  ...signature.map((text) => anthropic.delta(index, { type: 'signature_delta', signature: text })),
  anthropic.stop(index),
];

const start = (model = MODEL) => ({ type: 'message_start', message: { role: 'assistant', model, content: [] } });

/** Thinking, redacted thinking, text, a call, thinking without text, and another call. */
const INTERLEAVED = events(
  start(),
  ...thinkingBlocks(0, ['Let me', ' see 🌊'], ['c2ln', 'bmF0dXJl']),
  anthropic.block(1, { type: 'redacted_thinking', data: 'ZW5jcnlwdGVk' }),
  anthropic.stop(1),
  anthropic.block(2, { type: 'text', text: 'I look.' }),
  anthropic.stop(2),
  ...toolBlocks(3, 'toolu_1'),
  ...thinkingBlocks(4, [], ['c2Vjb25k']),
  ...toolBlocks(5, 'toolu_2'),
  ...anthropic.end('tool_use'),
);

const bodyOf = (messages: ChatMessage[], model = SONNET_4_5, options: Record<string, unknown> = OPTIONS) =>
  anthropicBody({ model, messages, options, tools: [{ name: 'f' }] });

const answerOf = (body: Record<string, unknown>) => (body.messages as { content: { type: string }[] }[])[1]?.content;

t.test('Anthropic gets its thinking blocks back, unchanged and in their places', async (t) => {
  const next = random(SEED);
  t.comment(`SEED=${SEED}`);
  for (let round = 0; round < 50; round++) {
    const state = stateOf(createAnthropicDecoder, INTERLEAVED, next);
    const body = bodyOf(secondStep(state, ['toolu_1', 'toolu_2'], 'I look.'));
    t.ok(body.thinking);
    t.same(answerOf(body), [
      { type: 'thinking', thinking: 'Let me see 🌊', signature: 'c2lnbmF0dXJl' },
      { type: 'redacted_thinking', data: 'ZW5jcnlwdGVk' },
      { type: 'text', text: 'I look.' },
      { type: 'tool_use', id: 'toolu_1', name: 'f', input: { a: 1 } },
      { type: 'thinking', thinking: '', signature: 'c2Vjb25k' },
      { type: 'tool_use', id: 'toolu_2', name: 'f', input: { a: 1 } },
    ]);
  }
});

t.test('the state survives JSON, and only answers with tool calls and signatures have one', async (t) => {
  const state = stateOf(createAnthropicDecoder, INTERLEAVED);
  t.same(JSON.parse(JSON.stringify(state)), state);
  t.same(state?.details?.[0], {
    type: 'reasoning.text',
    text: 'Let me see 🌊',
    signature: 'c2lnbmF0dXJl',
    format: 'anthropic-claude-v1',
    before: 0,
    model: MODEL,
  });
  const withoutCalls = events(
    start(),
    ...thinkingBlocks(0, ['hm'], ['s']),
    ...anthropic.text('x'),
    ...anthropic.end('end_turn'),
  );
  t.equal(stateOf(createAnthropicDecoder, withoutCalls), undefined);
  const unsigned = events(
    start(),
    ...thinkingBlocks(0, ['hm'], []),
    ...toolBlocks(1, 'toolu_1'),
    ...anthropic.end('tool_use'),
  );
  t.equal(stateOf(createAnthropicDecoder, unsigned), undefined);
  const content = [
    { type: 'thinking', thinking: 'hm', signature: 's' },
    { type: 'tool_use', id: 'toolu_1', name: 'f', input: { a: 1 } },
  ];
  const whole = { type: 'message', role: 'assistant', model: MODEL, content, stop_reason: 'tool_use' };
  t.match(stateOf(createAnthropicDecoder, JSON.stringify(whole)), {
    details: [{ text: 'hm', signature: 's', before: 0 }],
  });
});

t.test('thinking blocks of another model, another format or without a signature are left out', async (t) => {
  const state = stateOf(createAnthropicDecoder, INTERLEAVED);
  const types = (body: Record<string, unknown>) => answerOf(body)?.map(({ type }) => type);
  const messages = secondStep(state, ['toolu_1', 'toolu_2']);
  t.same(types(bodyOf(messages, 'claude-opus-5-5')), ['tool_use', 'tool_use'], 'another model');
  t.same(types(bodyOf(messages, MODEL, {})), ['tool_use', 'tool_use'], 'without thinking, for a model with budgets');
  const detail = { type: 'reasoning.text', text: 'hm', signature: 's', format: 'anthropic-claude-v1' };
  const details = [
    { ...detail, format: 'google-gemini-v1' },
    { ...detail, signature: undefined },
    { type: 'reasoning.summary', summary: 'hm', format: 'anthropic-claude-v1' },
    { ...detail, before: 7 },
  ];
  t.same(types(bodyOf(secondStep({ details }, ['a']), 'claude-opus-4-8')), ['tool_use']);
  const clientsCopy = secondStep({ details: [detail] }, ['a']);
  t.same(types(bodyOf(clientsCopy, 'claude-opus-4-8')), ['thinking', 'tool_use'], 'a client may drop other fields');
});

t.test('without its thinking blocks, a tool run goes on without thinking at models with budgets', async (t) => {
  const lost = secondStep(undefined, ['a']);
  t.equal(bodyOf(lost).thinking, undefined);
  t.equal(bodyOf([...lost, USER]).thinking, undefined, 'also with a text behind the results');
  t.ok(bodyOf(lost, 'claude-opus-4-8').thinking, 'adaptive models accept such a request');
  t.ok(bodyOf([...lost, { role: 'assistant', content: 'done' }, USER]).thinking, 'an earlier run does not count');
  const state = stateOf(createAnthropicDecoder, INTERLEAVED);
  const longer = [...secondStep(state, ['toolu_1', 'toolu_2']), ...secondStep(undefined, ['b']).slice(1)];
  t.ok(bodyOf(longer).thinking, 'only the first step of a turn needs its blocks');
  const other = [...secondStep(state, ['toolu_1', 'toolu_2']), ...secondStep(undefined, ['b'])];
  t.equal(bodyOf(other).thinking, undefined, 'blocks of an earlier turn do not count');
});

t.test('Gemini gets the signature of each call back, at the same call', async (t) => {
  const call = (n: number, thoughtSignature?: string) => ({
    functionCall: { name: 'f', args: { n } },
    ...(thoughtSignature && { thoughtSignature }),
  });
  const answer = events(
    gemini.chunk([{ text: 'hm', thought: true, thoughtSignature: 'not-of-a-call' }]),
    gemini.chunk([call(0, 'c2ln+/0='), call(1)]),
    gemini.chunk([call(2, 'dHdv')], 'STOP'),
  );
  const next = random(SEED);
  for (let round = 0; round < 50; round++) {
    const state = stateOf(createGeminiDecoder, answer, next);
    t.same(state, {
      extraContent: { 0: { google: { thought_signature: 'c2ln+/0=' } }, 2: { google: { thought_signature: 'dHdv' } } },
    });
    const messages = secondStep(JSON.parse(JSON.stringify(state)), ['a', 'b', 'c']);
    const { contents } = geminiBody({ model: 'gemini-3-pro', messages }) as { contents: { parts: object[] }[] };
    const signatures = contents[1]?.parts.map((part) => (part as { thoughtSignature?: string }).thoughtSignature);
    t.same(signatures, ['c2ln+/0=', undefined, 'dHdv']);
  }
  t.equal(stateOf(createGeminiDecoder, gemini.answer('STOP')), undefined);
});

t.test('thinking is reported until the next content, and pings are not', async (t) => {
  const taken = (createDecoder: (parts: PartBuffer) => AnswerDecoder, ...pieces: string[]) => {
    const parts = createPartBuffer();
    const decoder = createDecoder(parts);
    return pieces.map((piece) => {
      decoder.push(Buffer.from(piece));
      return parts.takeThinking();
    });
  };
  const claude = taken(
    createAnthropicDecoder,
    events(start()),
    events({ type: 'ping' }),
    events(anthropic.block(0, { type: 'thinking', thinking: '' })),
    events({ type: 'ping' }),
    events(anthropic.delta(0, { type: 'thinking_delta', thinking: 'hm' })),
    events(anthropic.delta(0, { type: 'signature_delta', signature: 's' })),
    events(anthropic.block(1, { type: 'redacted_thinking', data: 'd' })),
    events(anthropic.block(2, { type: 'text', text: '' })),
    events(anthropic.delta(2, { type: 'text_delta', text: 'x' })),
  );
  t.same(claude, [false, false, true, false, true, false, true, false, false]);
  const thought = gemini.chunk([{ text: 'hm', thought: true }]);
  t.same(taken(createGeminiDecoder, events(thought), events(gemini.chunk([{ text: 'x' }]))), [true, false]);
  t.same(taken(createGeminiDecoder, events(gemini.chunk([{ text: 'hm', thought: true }, { text: 'x' }]))), [false]);
  t.same(taken(createOllamaDecoder, lines(ollama.line({ thinking: 'hm' })), lines(ollama.line({ content: 'x' }))), [
    true,
    false,
  ]);
});

t.test('a refusal of Claude keeps its text', async (t) => {
  const play = await startDialects(t);
  const { text, finish } = await play(
    'anthropic',
    events(start(), ...anthropic.text('I cannot.'), ...anthropic.end('refusal')),
  );
  t.equal(text, 'I cannot.');
  t.match(finish, { reason: 'content_filter', rawReason: 'refusal' });
});
