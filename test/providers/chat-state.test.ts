import t from 'tap';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import type { ChatRequest, UserContent } from '../../providers/types.ts';
import { openAIChatBody } from '../../providers/wire/openai-body.ts';
import { MISTRAL_TOOL_IDS } from '../../providers/wire/tool-ids.ts';
import { DONE, events, openai, startDialects } from './dialects.ts';
import { OPTIONS } from './options.ts';

/** Tests state, files and content of Chat Completions. */

const DIALECT = { maxTokensField: 'max_tokens', streamOptions: true } as const;
const call = (id: string, extra: object = {}) => ({
  id,
  type: 'function',
  function: { name: 'f', arguments: '{"a":1}' },
  ...extra,
});
const DETAILS = [
  { type: 'reasoning.text', text: 'a', index: 0, format: 'anthropic-claude-v1' },
  { type: 'reasoning.text', text: 'b', index: 0 },
  { type: 'reasoning.text', text: '', signature: 'S', index: 0 },
  { type: 'reasoning.encrypted', data: 'E', id: 'r1', index: 1 },
  { type: 'reasoning.encrypted', data: 'F', id: 'r2', index: 1 },
];
const MERGED = [
  { type: 'reasoning.text', text: 'ab', index: 0, format: 'anthropic-claude-v1', signature: 'S' },
  { type: 'reasoning.encrypted', data: 'E', id: 'r1', index: 1 },
  { type: 'reasoning.encrypted', data: 'F', id: 'r2', index: 1 },
];

t.test('Chat Completions: the state of tool calls is in the finish part', async (t) => {
  const play = await startDialects(t);
  const details = DETAILS.map((detail) => openai.chunk({ reasoning_details: [detail] }));
  const google = { google: { thought_signature: 'G' } };
  const calls = openai.chunk({ tool_calls: [call('c1'), call('c2', { extra_content: google })] });
  const end = openai.chunk({}, 'tool_calls');
  const played = await play('openai-compatible', events(...details, calls, end) + DONE);
  t.same(played.finish?.state, { details: MERGED, extraContent: { 1: google } });
  t.equal(played.reasoning, 'ab', 'the text of the details is delivered');
  const onDelta = await play(
    'openai-compatible',
    events(openai.chunk({ extra_content: google, tool_calls: [call('c1')] }), end) + DONE,
  );
  t.same(onDelta.finish?.state, { extraContent: { 0: google } }, 'beside the calls');
  const plain = await play('openai-compatible', events(...details, openai.chunk({ content: 'x' }, 'stop')) + DONE);
  t.equal(plain.finish?.state, undefined, 'no state without calls');
  const both = openai.chunk({ reasoning: 'a', reasoning_details: [DETAILS[0]] });
  const once = await play('openai-compatible', events(both, openai.chunk({ content: 'x' }, 'stop')) + DONE);
  t.equal(once.reasoning, 'a', 'reasoning that comes twice is delivered once');
});

t.test('Chat Completions: the state of an answer is sent back', async (t) => {
  const messages: ChatRequest['messages'] = [
    {
      role: 'assistant',
      content: '',
      toolCalls: [{ id: 'call_long', name: 'f', arguments: '{}' }],
      state: {
        provider: 'p',
        details: [{ type: 'reasoning.text', text: 'a', before: 0 }],
        extraContent: { 0: { google: {} } },
      },
    },
  ];
  t.match(openAIChatBody({ model: 'm', messages, options: { seed: 3 } }, DIALECT), {
    seed: 3,
    messages: [
      {
        reasoning_details: [{ type: 'reasoning.text', text: 'a', before: undefined }],
        tool_calls: [{ id: 'call_long', extra_content: { google: {} } }],
      },
    ],
  });
  const mistral = { ...DIALECT, toolIds: MISTRAL_TOOL_IDS, seedField: 'random_seed' };
  t.match(openAIChatBody({ model: 'm', messages, options: { seed: 3 } }, mistral), {
    seed: undefined,
    random_seed: 3,
    messages: [{ tool_calls: [{ id: /^[a-zA-Z0-9]{9}$/ }] }],
  });
});

t.test('Chat Completions: content without images is one text', async (t) => {
  const contentOf = (content: readonly UserContent[], dialect: object = {}) => {
    const body = openAIChatBody({ model: 'm', messages: [{ role: 'user', content }] }, { ...DIALECT, ...dialect });
    return (body.messages as { content: unknown }[])[0]?.content;
  };
  const cached = [
    { type: 'text', text: 'a', cacheControl: { type: 'ephemeral' } },
    { type: 'text', text: 'b' },
  ] as const;
  t.equal(contentOf(cached), 'a\nb');
  t.same(contentOf(cached, { cacheControl: true }), [
    { type: 'text', text: 'a', cache_control: { type: 'ephemeral' } },
    { type: 'text', text: 'b' },
  ]);
  t.same(contentOf([{ type: 'file', url: 'data:application/pdf;base64,AA==', mimeType: 'application/pdf' }]), [
    { type: 'file', file: { filename: 'file.pdf', file_data: 'data:application/pdf;base64,AA==' } },
  ]);
});

t.test('files and JSON schemas are unfit for providers that cannot read them', async (t) => {
  const unsupported = (type: string, request: Partial<ChatRequest>) => {
    const provider = PROVIDER_TYPES[type]?.create({ ...OPTIONS, baseUrl: 'http://127.0.0.1:1', api: 'chat' });
    t.teardown(() => provider?.close());
    return provider?.unsupported?.({ model: 'm', messages: [], ...request });
  };
  const file = (url: string): Partial<ChatRequest> => ({
    messages: [{ role: 'user', content: [{ type: 'file', url, mimeType: 'application/pdf' }] }],
  });
  for (const type of ['openai', 'azure', 'openrouter', 'groq', 'bella']) {
    const hasData = !['groq', 'bella'].includes(type);
    t.equal(unsupported(type, file('data:application/pdf;base64,AA==')), hasData ? undefined : 'messages', type);
    t.equal(unsupported(type, file('https://x.example/a.pdf')), type === 'openrouter' ? undefined : 'messages', type);
  }
  const schema = { options: { response_format: { type: 'json_schema', json_schema: {} } } };
  t.equal(unsupported('deepseek', schema), 'response_format');
  t.equal(unsupported('groq', schema), undefined);
});
