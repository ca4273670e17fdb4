import { readFileSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import type { ChatRequest, Provider } from '../../providers/types.ts';
import { type Api, OPTION_TABLE, type Verdict } from '../../providers/wire/option-table.ts';
import { askBody } from '../../routes/chat-request.ts';
import { uiBody } from '../../routes/ui/schema.ts';
import { chatBody } from '../../routes/v1/schema.ts';
import { startUpstream, type Upstream } from '../upstream.ts';
import { OPTIONS } from './options.ts';

/**
 * Tests the table of options: every provider is called with every option, and does what the table says. The table in
 * docs/providers.md is made from it: `npm run docs` writes it.
 */

const BASE: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'q' }] };
const TOOLS = [{ name: 'f', parameters: { type: 'object', properties: {} } }];
const SCHEMA = { type: 'object', properties: {}, additionalProperties: false };
const file = (url: string): Partial<ChatRequest> => ({
  messages: [{ role: 'user', content: [{ type: 'file', url, mimeType: 'application/pdf', filename: 'a.pdf' }] }],
});
const image = (url: string): Partial<ChatRequest> => ({
  messages: [{ role: 'user', content: [{ type: 'image', url }] }],
});

/** A request with the option of each row. Rows that are not here have a plain value in `options`. */
const REQUESTS: Readonly<Record<string, Partial<ChatRequest>>> = {
  temperature: { temperature: 0.5 },
  top_p: { topP: 0.5 },
  max_tokens: { maxTokens: 77 },
  stop: { stop: ['x'] },
  tools: { tools: TOOLS },
  'tool_choice: none': { tools: TOOLS, toolChoice: 'none' },
  'tool_choice: required': { tools: TOOLS, toolChoice: 'required' },
  'tool_choice: function': { tools: TOOLS, toolChoice: { name: 'f' } },
  'parallel_tool_calls: false': { tools: TOOLS, options: { parallel_tool_calls: false } },
  'response_format: json_object': { options: { response_format: { type: 'json_object' } } },
  'response_format: json_schema': {
    options: { response_format: { type: 'json_schema', json_schema: { name: 'n', schema: SCHEMA } } },
  },
  reasoning_effort: { options: { reasoning_effort: 'high' } },
  reasoning: { options: { reasoning: { effort: 'high' } } },
  thinking: { options: { thinking: { type: 'enabled', budget_tokens: 2_000 } } },
  enable_thinking: { options: { enable_thinking: true } },
  cache_control: { options: { cache_control: { type: 'ephemeral' } } },
  logit_bias: { options: { logit_bias: { 1: 2 } } },
  prediction: { options: { prediction: { type: 'content', content: 'x' } } },
  metadata: { options: { metadata: { a: 'b' } } },
  store: { options: { store: true } },
  'image by data: URL': image('data:image/png;base64,AAAA'),
  'image by https: URL': image('https://images.example/a.png'),
  'file by data: URL': file('data:application/pdf;base64,AAAA'),
  'file by https: URL': file('https://files.example/a.pdf'),
  'unknown options': { options: { an_unknown_option: 1 } },
};
const WORDS = new Set([
  'user',
  'safety_identifier',
  'service_tier',
  'prompt_cache_key',
  'prompt_cache_retention',
  'verbosity',
]);

function requestOf(row: string): ChatRequest {
  return { ...BASE, ...(REQUESTS[row] ?? { options: { [row]: WORDS.has(row) ? 'low' : 1 } }) };
}

/** The request without the option of a row. */
function baseOf(row: string): ChatRequest {
  const { tools } = REQUESTS[row] ?? {};
  return row === 'tools' || tools === undefined ? BASE : { ...BASE, tools };
}

/** The API of each type that does not speak Chat Completions, and a model that has all its options. */
const APIS: Readonly<Record<string, { api: Api; model: string }>> = {
  openai: { api: 'responses', model: 'gpt-4o' },
  anthropic: { api: 'anthropic', model: 'claude-opus-4-5' },
  gemini: { api: 'gemini', model: 'gemini-3-pro' },
  vertex: { api: 'gemini', model: 'gemini-3-pro' },
  ollama: { api: 'ollama', model: 'qwen3' },
  demo: { api: 'demo', model: 'demo' },
};

/** Returns the verdict of the table, with the exceptions: what single providers cannot do, although the API can. */
function verdictOf(type: string, row: string): Verdict {
  if (row === 'response_format: json_schema' && type === 'deepseek') return 'unfit';
  const { api } = APIS[type] ?? { api: 'chat' };
  const hasFiles = ['openai', 'azure', 'openrouter'].includes(type);
  if (api === 'chat' && row === 'file by data: URL' && !hasFiles) return 'unfit';
  if (api === 'chat' && row === 'file by https: URL' && type !== 'openrouter') return 'unfit';
  return OPTION_TABLE[row]?.[api as Api] as Verdict;
}

/** Returns the body that a request becomes. */
async function bodyOf(provider: Provider, upstream: Upstream, request: ChatRequest): Promise<string> {
  const before = upstream.calls.length;
  try {
    for await (const _ of provider.stream(request, new AbortController().signal));
  } catch {
    // The upstream refuses every request.
  }
  return upstream.calls[before]?.body ?? '';
}

for (const [type, { create }] of Object.entries(PROVIDER_TYPES)) {
  t.test(`${type}: every option is mapped, unfit, or a hint, as the table says`, async (t) => {
    const upstream = await startUpstream(t, ({ response }) => void response.writeHead(400).end());
    const provider = create({
      ...OPTIONS,
      api: undefined,
      baseUrl: upstream.url,
      apiKeys: ['k'],
      name: type,
      allowPrivate: true,
    });
    t.teardown(() => provider.close());
    const model = APIS[type]?.model ?? 'm';
    for (const row of Object.keys(OPTION_TABLE)) {
      const request = { ...requestOf(row), model };
      const verdict = verdictOf(type, row);
      const unsupported = provider.unsupported?.(request);
      if (verdict === 'unfit') {
        t.type(unsupported, 'string', `${row}: unfit`);
        continue;
      }
      t.equal(unsupported, undefined, `${row}: can be sent`);
      if (type === 'demo') continue;
      const body = await bodyOf(provider, upstream, request);
      const base = await bodyOf(provider, upstream, { ...baseOf(row), model });
      t.not(body, '', `${row}: the provider is called`);
      if (verdict === 'mapped') t.not(body, base, `${row}: mapped`);
      else t.equal(body, base, `${row}: left out`);
    }
  });
}

/** Fields of requests that are not options of a provider, or have rows of another name. */
const OWN_FIELDS = new Set([
  'model',
  'messages',
  'question',
  'system',
  'id',
  'trigger',
  'messageId',
  'resumable',
  'stream',
  'stream_options',
  // Rows by value, or by their names in Chat Completions.
  'tool_choice',
  'toolChoice',
  'response_format',
  'maxTokens',
  'max_completion_tokens',
  'reasoningEffort',
]);

t.test('every option of our APIs has a row', async (t) => {
  for (const schema of [chatBody(1), uiBody(1), askBody(1)]) {
    const { properties = {}, allOf = [] } = schema as { properties?: object; allOf?: { properties?: object }[] };
    const names = [properties, ...allOf.map((one) => one.properties ?? {})].flatMap((fields) => Object.keys(fields));
    t.ok(names.length > 5);
    for (const name of names) t.ok(OWN_FIELDS.has(name) || name in OPTION_TABLE, name);
  }
});

const FILE = 'docs/providers.md';
const TABLE = /(<!-- options:.*?-->\n).*?(<!-- \/options -->)/s;
const SIGNS: Readonly<Record<Verdict, string>> = { mapped: '✓', unfit: 'unfit', hint: 'hint' };

t.test('docs/providers.md has the table', async (t) => {
  const apis = Object.keys(Object.values(OPTION_TABLE)[0] ?? {}) as Api[];
  const rows = Object.entries(OPTION_TABLE).map(
    ([row, verdicts]) =>
      `| ${row.includes(' ') ? row : `\`${row}\``} | ${apis.map((api) => SIGNS[verdicts[api]]).join(' | ')} |`,
  );
  const head = ['option', 'Chat Completions', 'Responses', 'Anthropic', 'Gemini, Vertex', 'Ollama', 'demo'];
  const table = [`| ${head.join(' | ')} |`, `|${'---|'.repeat(head.length)}`, ...rows].join('\n');
  const before = readFileSync(FILE, 'utf8');
  t.match(before, TABLE, 'the page has a place for the table');
  const after = before.replace(TABLE, (_, begin, end) => `${begin}\n${table}\n\n${end}`);
  if (process.env.UPDATE_DOCS) writeFileSync(FILE, after);
  else t.equal(after, before, 'the table is up to date; else run `npm run docs`');
});
