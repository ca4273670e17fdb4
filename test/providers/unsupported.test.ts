import t from 'tap';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import type { ChatRequest, UserContent } from '../../providers/types.ts';
import { type Api, OPTION_TABLE } from '../../providers/wire/option-table.ts';
import { OPTIONS } from './options.ts';

/** Asks providers for every option of the table, and compares what they call unsupported with their column. */

/** A model without rules of its own, and the type of a provider, for each API. */
const TYPES: readonly [type: string, api: Api, model: string][] = [
  ['anthropic', 'anthropic', 'claude-opus-4-8'],
  ['gemini', 'gemini', 'gemini-3.1-pro-preview'],
  ['vertex', 'gemini', 'gemini-3.1-pro-preview'],
  ['ollama', 'ollama', 'qwen3'],
  ['demo', 'demo', 'demo'],
];

const tools = [{ name: 'f' }];
const media = (block: UserContent): Partial<ChatRequest> => ({ messages: [{ role: 'user', content: [block] }] });
const format = (type: string) => ({
  options: { response_format: { type, json_schema: { name: 'n', schema: { type: 'object' } } } },
});

/** Requests of the rows that are not just an option of this name. */
const REQUESTS: Readonly<Record<string, [Partial<ChatRequest>, name: string]>> = {
  temperature: [{ temperature: 1 }, 'temperature'],
  top_p: [{ topP: 1 }, 'top_p'],
  max_tokens: [{ maxTokens: 1 }, 'max_tokens'],
  stop: [{ stop: ['x'] }, 'stop'],
  tools: [{ tools }, 'tools'],
  'tool_choice: none': [{ tools, toolChoice: 'none' }, 'tool_choice'],
  'tool_choice: required': [{ tools, toolChoice: 'required' }, 'tool_choice'],
  'tool_choice: function': [{ tools, toolChoice: { name: 'f' } }, 'tool_choice'],
  'parallel_tool_calls: false': [{ tools, options: { parallel_tool_calls: false } }, 'parallel_tool_calls'],
  'response_format: json_object': [format('json_object'), 'response_format'],
  'response_format: json_schema': [format('json_schema'), 'response_format'],
  'image by data: URL': [media({ type: 'image', url: 'data:image/png;base64,AA==' }), 'messages'],
  'image by https: URL': [media({ type: 'image', url: 'https://x.example/a.png' }), 'messages'],
  'file by data: URL': [
    media({ type: 'file', url: 'data:application/pdf;base64,AA==', mimeType: 'application/pdf' }),
    'messages',
  ],
  'file by https: URL': [
    media({ type: 'file', url: 'https://x.example/a.pdf', mimeType: 'application/pdf' }),
    'messages',
  ],
  'unknown options': [{ options: { an_option_of_tomorrow: 1 } }, 'an_option_of_tomorrow'],
};

t.test('a provider calls unsupported what its column of the table says', async (t) => {
  for (const [type, api, model] of TYPES) {
    const provider = PROVIDER_TYPES[type]?.create({ ...OPTIONS, baseUrl: 'http://127.0.0.1:1' });
    if (provider === undefined) throw new Error(`no provider type ${type}`);
    t.teardown(() => provider.close());
    for (const [row, verdicts] of Object.entries(OPTION_TABLE)) {
      const [request, name] = REQUESTS[row] ?? [{ options: { [row]: 1 } }, row];
      const found = provider.unsupported?.({ model, messages: [{ role: 'user', content: 'q' }], ...request });
      t.equal(found, verdicts[api] === 'unfit' ? name : undefined, `${type}: ${row}`);
    }
  }
});

t.test('rules of models count, too', async (t) => {
  const unsupported = (type: string, request: Partial<ChatRequest> & { model: string }) => {
    const provider = PROVIDER_TYPES[type]?.create({ ...OPTIONS, baseUrl: 'http://127.0.0.1:1' });
    t.teardown(() => provider?.close());
    return provider?.unsupported?.({ messages: [{ role: 'user', content: 'q' }], ...request });
  };
  t.equal(unsupported('anthropic', { model: 'claude-3-haiku-20240307', ...format('json_schema') }), 'response_format');
  for (const type of ['gemini', 'vertex']) {
    t.equal(unsupported(type, { model: 'gemini-2.5-pro', tools, ...format('json_schema') }), 'response_format', type);
  }
});
