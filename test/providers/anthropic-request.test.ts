import t from 'tap';
import type { ChatMessage, ChatRequest } from '../../providers/types.ts';
import { anthropicBody } from '../../providers/wire/anthropic-body.ts';
import type { Sampling } from '../../providers/wire/claude-models.ts';
import { closedSchema } from '../../providers/wire/closed-schema.ts';

/** Tests the body of a request to Anthropic: models × options. */

const USER: ChatMessage = { role: 'user', content: 'q' };
const body = (model: string, request: Partial<ChatRequest> = {}, sampling?: Sampling) =>
  anthropicBody({ model, messages: [USER], ...request }, sampling);

const OLD = 'claude-3-5-sonnet-latest';
const BUDGET = 'claude-sonnet-4-5-20250929';
const OPUS_4_6 = 'claude-opus-4-6';
const OPUS_4_8 = 'claude-opus-4-8';

t.test('a model gets only the sampling options that it accepts', async (t) => {
  const all = { temperature: 0.5, topP: 0.9, options: { top_k: 40 } };
  const expected: [string, Sampling | undefined, object][] = [
    [OLD, undefined, { temperature: 0.5, top_p: 0.9, top_k: 40 }],
    [BUDGET, undefined, { temperature: 0.5, top_k: 40 }],
    [OPUS_4_6, undefined, { temperature: 0.5, top_k: 40 }],
    [OPUS_4_8, undefined, {}],
    ['m', undefined, {}],
    ['m', 'both', { temperature: 0.5, top_p: 0.9, top_k: 40 }],
    [OLD, 'one', { temperature: 0.5, top_k: 40 }],
    [OLD, 'none', {}],
  ];
  for (const [model, sampling, fields] of expected) {
    const { temperature, top_p, top_k } = body(model, all, sampling);
    const sent = Object.fromEntries(
      Object.entries({ temperature, top_p, top_k }).filter(([, value]) => value !== undefined),
    );
    t.same(sent, fields, `${model} ${sampling ?? ''}`);
  }
  t.equal(body(BUDGET, { topP: 0.9 }).top_p, 0.9, 'top_p alone is sent');
  t.equal(body(OLD, { temperature: 1.5 }).temperature, 1, 'at most 1');
});

t.test('max_tokens is the maximum of the model unless the request sets one', async (t) => {
  t.equal(body(OLD).max_tokens, 8_192);
  t.equal(body(OPUS_4_8).max_tokens, 128_000);
  t.equal(body(OPUS_4_8, { maxTokens: 7 }).max_tokens, 7);
});

t.test('reasoning becomes thinking and effort as the model has them', async (t) => {
  const adaptive = { type: 'adaptive', display: 'summarized' };
  const effort = (level: string) => ({ effort: level });
  const rows: [string, Record<string, unknown>, object | undefined, object | undefined][] = [
    [OPUS_4_8, {}, undefined, undefined],
    [OPUS_4_8, { reasoning_effort: 'minimal' }, adaptive, effort('low')],
    [OPUS_4_8, { reasoning_effort: 'high' }, adaptive, effort('high')],
    [OPUS_4_8, { reasoning_effort: 'xhigh' }, adaptive, effort('xhigh')],
    [OPUS_4_8, { reasoning_effort: 'max' }, adaptive, effort('max')],
    [OPUS_4_8, { reasoning_effort: 'enormous' }, adaptive, undefined],
    [OPUS_4_6, { reasoning_effort: 'xhigh' }, adaptive, effort('high')],
    [OPUS_4_6, { reasoning_effort: 'max' }, adaptive, effort('max')],
    [OPUS_4_8, { thinking: { type: 'enabled', budget_tokens: 2_000 } }, adaptive, effort('low')],
    [OPUS_4_8, { reasoning: { max_tokens: 10_000 } }, adaptive, effort('medium')],
    [OPUS_4_8, { thinking: { type: 'enabled', budget_tokens: 60_000 } }, adaptive, effort('high')],
    [OPUS_4_8, { enable_thinking: true }, adaptive, undefined],
    ['m', { reasoning_effort: 'low' }, adaptive, effort('low')],
    [BUDGET, { reasoning_effort: 'minimal' }, { type: 'enabled', budget_tokens: 1_024 }, undefined],
    [BUDGET, { reasoning_effort: 'medium' }, { type: 'enabled', budget_tokens: 8_192 }, undefined],
    [BUDGET, { reasoning_effort: 'high' }, { type: 'enabled', budget_tokens: 24_576 }, undefined],
    [BUDGET, { enable_thinking: true }, { type: 'enabled', budget_tokens: 8_192 }, undefined],
    [BUDGET, { reasoning: { max_tokens: 10 } }, { type: 'enabled', budget_tokens: 1_024 }, undefined],
    [BUDGET, { reasoning: { max_tokens: 90_000 } }, { type: 'enabled', budget_tokens: 62_976 }, undefined],
    [OLD, { reasoning_effort: 'high' }, undefined, undefined],
    // Without reasoning.
    [OLD, { reasoning_effort: 'none' }, undefined, undefined],
    [BUDGET, { reasoning_effort: 'none' }, undefined, undefined],
    [OPUS_4_8, { reasoning_effort: 'none' }, undefined, undefined],
    ['claude-sonnet-5', { thinking: { type: 'disabled' } }, { type: 'disabled' }, undefined],
    ['claude-haiku-5-5', { enable_thinking: false }, { type: 'disabled' }, undefined],
    ['claude-sonnet-5-5', { reasoning_effort: 'none' }, { type: 'between_tools' }, undefined],
    ['claude-opus-5-5', { reasoning_effort: 'none' }, undefined, effort('low')],
    ['m', { reasoning_effort: 'none' }, undefined, effort('low')],
  ];
  for (const [model, options, thinking, outputConfig] of rows) {
    const sent = body(model, { options });
    t.same(sent.thinking, thinking, `${model} ${JSON.stringify(options)}: thinking`);
    t.same(sent.output_config, outputConfig, `${model} ${JSON.stringify(options)}: effort`);
  }
});

t.test('a budget leaves room for the answer in max_tokens, and is left out if there is none', async (t) => {
  const options = { reasoning_effort: 'high' };
  t.same(body(BUDGET, { maxTokens: 4_000, options }).thinking, { type: 'enabled', budget_tokens: 2_976 });
  t.same(body(BUDGET, { maxTokens: 2_048, options }).thinking, { type: 'enabled', budget_tokens: 1_024 });
  t.equal(body(BUDGET, { maxTokens: 2_047, options }).thinking, undefined);
  for (let maxTokens = 1; maxTokens < 70_000; maxTokens += 997) {
    for (const effort of ['minimal', 'low', 'medium', 'high', 'xhigh', 'max', 'other']) {
      const sent = body(BUDGET, { maxTokens, options: { reasoning_effort: effort } });
      const budget = (sent.thinking as { budget_tokens: number } | undefined)?.budget_tokens;
      if (budget !== undefined && (budget < 1_024 || budget >= maxTokens)) t.fail(`${maxTokens} ${effort}: ${budget}`);
    }
  }
});

t.test('with thinking, options that the API refuses beside it are left out', async (t) => {
  const options = { reasoning_effort: 'high', top_k: 40 };
  for (const model of ['claude-sonnet-4-0', BUDGET, OPUS_4_6]) {
    const sent = body(model, { temperature: 0, topP: 0.9, options });
    for (const name of ['temperature', 'top_p', 'top_k']) t.notOk(name in sent, `${model}: ${name}`);
    t.equal(body(model, { topP: 0.97, options }).top_p, 0.97, model);
  }
  const tools = [{ name: 'f' }];
  for (const toolChoice of ['required', { name: 'f' }] as const) {
    const budget = body(BUDGET, { tools, toolChoice, temperature: 0, options });
    t.equal(budget.thinking, undefined, 'a forced tool call excludes thinking');
    t.equal(budget.temperature, 0);
    const adaptive = body(OPUS_4_6, { tools, toolChoice, temperature: 0, options });
    t.equal(adaptive.thinking, undefined);
    t.equal(adaptive.temperature, 0);
    t.same(adaptive.output_config, { effort: 'high' });
  }
  t.ok(body(BUDGET, { tools, toolChoice: 'auto', options }).thinking);
});

t.test('a JSON schema becomes the format of the output, with closed objects', async (t) => {
  const schema = {
    type: 'object',
    properties: {
      minimum: { type: 'integer', minimum: 1, maximum: 5, description: 'Stars' },
      list: { type: 'array', minItems: 1, items: { type: 'object', properties: {}, additionalProperties: true } },
      either: { oneOf: [{ type: 'string', maxLength: 3 }, { $ref: '#/$defs/d' }] },
    },
    $defs: { d: { type: 'object', properties: { type: { const: 'object' } } } },
    required: ['minimum'],
  };
  const closed = {
    type: 'object',
    properties: {
      minimum: { type: 'integer', description: 'Stars\n\n{minimum: 1, maximum: 5}' },
      list: { type: 'array', minItems: 1, items: { type: 'object', properties: {}, additionalProperties: false } },
      either: { anyOf: [{ type: 'string', description: '{maxLength: 3}' }, { $ref: '#/$defs/d' }] },
    },
    $defs: { d: { type: 'object', properties: { type: { const: 'object' } }, additionalProperties: false } },
    required: ['minimum'],
    additionalProperties: false,
  };
  const options = {
    response_format: { type: 'json_schema', json_schema: { name: 'n', schema } },
    reasoning_effort: 'low',
  };
  t.same(body(OPUS_4_8, { options }).output_config, { effort: 'low', format: { type: 'json_schema', schema: closed } });
  t.same(closedSchema(closed), closed, 'a closed schema stays as it is');
  t.equal(body(OLD, { options }).output_config, undefined);
});

t.test('tools, tool choice and parallel calls', async (t) => {
  const tools = [{ name: 'f', description: 'd', parameters: {}, strict: true }];
  t.same(body(OPUS_4_8, { tools }).tools, [
    { name: 'f', description: 'd', input_schema: { type: 'object', properties: {} } },
  ]);
  const sequential = { parallel_tool_calls: false };
  const choices: [ChatRequest['toolChoice'], object][] = [
    [undefined, { type: 'auto', disable_parallel_tool_use: true }],
    ['auto', { type: 'auto', disable_parallel_tool_use: true }],
    ['required', { type: 'any', disable_parallel_tool_use: true }],
    [{ name: 'f' }, { type: 'tool', name: 'f', disable_parallel_tool_use: true }],
    ['none', { type: 'none' }],
  ];
  for (const [toolChoice, sent] of choices) {
    const request = { tools, options: sequential, ...(toolChoice && { toolChoice }) };
    t.same(body(OPUS_4_8, request).tool_choice, sent, JSON.stringify(toolChoice));
  }
  t.equal(body(OPUS_4_8, { tools, options: { parallel_tool_calls: true } }).tool_choice, undefined);
  t.equal(body(OPUS_4_8, { options: sequential }).tool_choice, undefined, 'not without tools');
});

t.test('cache markers of the request, of texts and of system messages are sent', async (t) => {
  const cacheControl = { type: 'ephemeral', ttl: '1h' };
  const sent = body(OPUS_4_8, {
    options: { cache_control: { type: 'ephemeral' } },
    messages: [
      { role: 'system', content: 'one', cacheControl },
      { role: 'system', content: 'two' },
      { role: 'user', content: [{ type: 'text', text: 'q', cacheControl }] },
    ],
  });
  t.same(sent.cache_control, { type: 'ephemeral' });
  t.same(sent.system, [
    { type: 'text', text: 'one', cache_control: cacheControl },
    { type: 'text', text: 'two' },
  ]);
  t.same(sent.messages, [{ role: 'user', content: [{ type: 'text', text: 'q', cache_control: cacheControl }] }]);
});

t.test('files become documents', async (t) => {
  const pdf = { type: 'file', mimeType: 'application/pdf' } as const;
  const content = [
    { ...pdf, url: 'data:application/pdf;base64,JVBERg==', filename: 'a.pdf' },
    { ...pdf, url: 'https://files.example/b.pdf' },
    { type: 'file', mimeType: 'text/plain', url: 'data:text/plain;charset=utf-8;base64,w6Q=' } as const,
    { type: 'file', mimeType: 'image/png', url: 'data:image/png;base64,AA==' } as const,
  ];
  t.same(body(OPUS_4_8, { messages: [{ role: 'user', content }] }).messages, [
    {
      role: 'user',
      content: [
        {
          type: 'document',
          source: { type: 'base64', media_type: 'application/pdf', data: 'JVBERg==' },
          title: 'a.pdf',
        },
        { type: 'document', source: { type: 'url', url: 'https://files.example/b.pdf' } },
        { type: 'document', source: { type: 'text', media_type: 'text/plain', data: 'ä' } },
        { type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'AA==' } },
      ],
    },
  ]);
});

t.test('ids of tool calls that Anthropic refuses are replaced, the same in call and result', async (t) => {
  const id = 'functions.f:0';
  const messages: ChatMessage[] = [
    USER,
    { role: 'assistant', content: '', toolCalls: [{ id, name: 'f', arguments: '{}' }] },
    { role: 'tool', toolCallId: id, name: 'f', content: '1' },
  ];
  const sent = body(OPUS_4_8, { messages }).messages as [
    unknown,
    { content: [{ id: string }] },
    { content: [{ tool_use_id: string }] },
  ];
  t.match(sent[1].content[0].id, /^[a-zA-Z0-9_-]{1,64}$/);
  t.equal(sent[2].content[0].tool_use_id, sent[1].content[0].id);
});

t.test(
  'options that the operator forwards go into the body unchanged, and others that Anthropic lacks do not',
  async (t) => {
    const options = { service_tier: 'auto', thinking: { type: 'adaptive' }, seed: 1, container: 'c' };
    const sent = body(OPUS_4_8, { options, forward: ['service_tier', 'thinking', 'absent'] });
    t.same(Object.keys(sent).sort(), ['max_tokens', 'messages', 'model', 'service_tier', 'stream', 'thinking']);
    t.same(sent.thinking, { type: 'adaptive' });
  },
);
