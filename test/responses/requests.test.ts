import { readFileSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { type FieldName, type FieldRule, REQUEST_FIELDS } from '../../routes/responses/fields.ts';
import { ITEM_FIELDS, PART_FIELDS } from '../../routes/responses/item-fields.ts';
import { NESTED_FIELDS } from '../../routes/responses/nested-fields.ts';
import { bearer, sha256 } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { ask, askedOf, type Body, serviceOf } from './service.ts';

/** Requests to `/v1/responses`: the prompts that they become, and the refusals. */

/** Names of the members of an interface of OpenAI's specification, as its SDK was generated from it. */
function specifiedMembers(name: string, file = 'responses/responses'): string[] {
  const types = readFileSync(`node_modules/openai/resources/${file}.d.ts`, 'utf8');
  const [, indent = '', members = ''] =
    new RegExp(`^( *)(?:export )?interface ${name} \\{\\n(.*?)^\\1\\}`, 'ms').exec(types) ?? [];
  return [...members.matchAll(new RegExp(`^ {${indent.length + 4}}(\\w+)\\??:`, 'gm'))].map(([, one]) => one as string);
}

t.test('every field of the specification has a rule', async (t) => {
  const specified = specifiedMembers('ResponseCreateParamsBase');
  t.ok(specified.length > 25);
  t.same(
    specified.filter((name) => !(name in REQUEST_FIELDS)),
    [],
  );
  // Version 6 of the SDK lacks these.
  const missing = ['access_programs', 'background_options', 'image', 'max_tool_calls'];
  t.same(
    Object.keys(REQUEST_FIELDS).filter((name) => !specified.includes(name) && !missing.includes(name)),
    [],
  );
});

t.test('every member of their objects has a rule', async (t) => {
  const names = {
    reasoning: specifiedMembers('Reasoning', 'shared'),
    stream_options: specifiedMembers('StreamOptions'),
    text: specifiedMembers('ResponseTextConfig'),
    'text.format': specifiedMembers('ResponseFormatTextJSONSchemaConfig'),
    tool_choice: [...specifiedMembers('ToolChoiceAllowed'), ...specifiedMembers('ToolChoiceFunction')],
    'tool_choice.tools[]': specifiedMembers('ToolChoiceFunction'),
    'tools[]': specifiedMembers('FunctionTool'),
  };
  for (const [path, rules] of Object.entries(NESTED_FIELDS)) {
    const specified = names[path as keyof typeof names];
    // Version 6 of the SDK lacks this.
    const missing = path === 'tools[]' && !specified.includes('async') ? ['async'] : [];
    t.same(Object.keys(rules), [...new Set([...specified, ...missing])].sort(), path);
  }
});

/** Names of the members that version 6 of the SDK lacks. */
const ADDED_LATER = { function_call: ['async'], function_call_output: ['name', 'namespace'] };

/** Names of the members that only SDKs add to the output of a response. */
const ADDED_BY_SDKS = { function_call: ['parsed_arguments'], output_text: ['parsed'], refusal: ['parsed'] };

t.test('every member of items and of their parts has a rule', async (t) => {
  const names: Record<keyof typeof ITEM_FIELDS | keyof typeof PART_FIELDS, string[]> = {
    message: ['EasyInputMessage', 'Message', 'ResponseOutputMessage', 'ResponseInputMessageItem'],
    function_call: ['ResponseFunctionToolCall', 'ResponseFunctionToolCallItem extends ResponseFunctionToolCall'],
    function_call_output: ['FunctionCallOutput', 'ResponseFunctionToolCallOutputItem'],
    reasoning: ['ResponseReasoningItem'],
    item_reference: ['ItemReference'],
    input_text: ['ResponseInputText', 'ResponseInputTextContent'],
    input_image: ['ResponseInputImage', 'ResponseInputImageContent'],
    input_file: ['ResponseInputFile', 'ResponseInputFileContent'],
    output_text: ['ResponseOutputText'],
    refusal: ['ResponseOutputRefusal'],
    reasoning_text: ['Content'],
    summary_text: ['Summary'],
  };
  for (const [type, rules] of Object.entries({ ...ITEM_FIELDS, ...PART_FIELDS })) {
    const specified = names[type as keyof typeof names].flatMap((name) => {
      const members = specifiedMembers(name);
      t.ok(members.length > 0, name);
      return members;
    });
    const added = ADDED_BY_SDKS[type as keyof typeof ADDED_BY_SDKS] ?? [];
    const later = ADDED_LATER[type as keyof typeof ADDED_LATER] ?? [];
    t.same(Object.keys(rules), [...new Set([...specified, ...added, ...later])].sort(), type);
  }
});

const FILE = 'docs/responses.md';
const BEGIN = (name: string) => `<!-- ${name}: written by \`npm run docs\` -->\n`;
const LAST = '<!-- end -->';

/** Returns the document with the rows of one of its tables. */
function withTable(t: Test, text: string, name: string, rows: string[]): string {
  const from = text.indexOf(BEGIN(name)) + BEGIN(name).length;
  const to = text.indexOf(LAST, from);
  t.ok(from >= BEGIN(name).length && to >= from, 'the marks are there');
  return text.slice(0, from) + ['| field | | |', '|---|---|---|', ...rows, ''].join('\n') + text.slice(to);
}

t.test('docs/responses.md has the tables', async (t) => {
  const text = readFileSync(FILE, 'utf8');
  const row = (name: string, { verdict, note }: FieldRule) => `| \`${name}\` | ${verdict} | ${note} |`;
  const nested = Object.entries(NESTED_FIELDS).flatMap(([path, rules]) =>
    Object.entries(rules).map(([name, rule]) => [`${path}.${name}`, rule] as const),
  );
  const fields = Object.entries(REQUEST_FIELDS).flatMap(([field, rule]) => {
    const ofField = nested.filter(([path]) => path.split(/[.[]/)[0] === field);
    return [[field, rule] as const, ...ofField].map(([name, one]) => row(name, one));
  });
  const items = Object.entries({ ...ITEM_FIELDS, ...PART_FIELDS }).flatMap(([type, rules]) =>
    Object.entries(rules)
      .filter(([name]) => name !== 'type')
      .map(([name, rule]) => row(`${type}.${name}`, rule)),
  );
  const updated = withTable(t, withTable(t, text, 'fields', fields), 'items', items);
  if (process.env.UPDATE_DOCS) writeFileSync(FILE, updated);
  else t.equal(text, updated, 'run `npm run docs`');
});

const TOOL = { type: 'function', name: 'look', parameters: { type: 'object' } };
const SCHEMA = { type: 'object', properties: {} };

interface FieldCase {
  readonly value: unknown;
  /** Other fields of the request. */
  readonly with?: object;
  /** Part of the body that the provider gets, or of the response. */
  readonly upstream?: object;
  readonly response?: object;
}

/** A value of each field that is served or a hint, with its effect. */
const CASES: Readonly<Partial<Record<FieldName, readonly FieldCase[]>>> = {
  background: [{ value: true, response: { background: true, status: 'queued' } }],
  include: [
    { value: ['reasoning.encrypted_content', 'message.input_image.image_url'], response: { status: 'completed' } },
  ],
  input: [{ value: 'hi', upstream: { messages: [{ role: 'user' }] } }],
  instructions: [
    {
      value: 'Be brief.',
      upstream: { messages: [{ role: 'system', content: 'Be brief.' }, {}] },
      response: { instructions: 'Be brief.' },
    },
  ],
  max_output_tokens: [{ value: 9, upstream: { max_completion_tokens: 9 }, response: { max_output_tokens: 9 } }],
  max_tool_calls: [{ value: 3, response: { max_tool_calls: 3 } }],
  metadata: [{ value: { a: 'b' }, upstream: { metadata: undefined }, response: { metadata: { a: 'b' } } }],
  model: [{ value: 'p/m', upstream: { model: 'm' }, response: { model: 'p/m' } }],
  parallel_tool_calls: [
    {
      value: false,
      with: { tools: [TOOL] },
      upstream: { parallel_tool_calls: false },
      response: { parallel_tool_calls: false },
    },
    { value: false, upstream: { parallel_tool_calls: undefined } },
  ],
  previous_response_id: [{ value: null, response: { previous_response_id: null } }],
  prompt_cache_key: [{ value: 'k', upstream: { prompt_cache_key: 'k' }, response: { prompt_cache_key: 'k' } }],
  prompt_cache_options: [{ value: { mode: 'implicit' }, upstream: { prompt_cache_options: undefined } }],
  prompt_cache_retention: [{ value: '24h', upstream: { prompt_cache_retention: '24h' } }],
  reasoning: [
    {
      value: { effort: 'low', summary: 'auto' },
      upstream: { reasoning_effort: 'low', reasoning: undefined },
      response: { reasoning: { effort: 'low', summary: 'auto' } },
    },
    {
      value: { generate_summary: 'concise', context: 'auto', mode: 'x' },
      response: { reasoning: { effort: null, summary: 'concise' } },
    },
  ],
  safety_identifier: [{ value: 's', upstream: { safety_identifier: 's' }, response: { safety_identifier: 's' } }],
  service_tier: [{ value: 'flex', upstream: { service_tier: 'flex' }, response: { service_tier: 'flex' } }],
  store: [
    { value: false, response: { store: false } },
    { value: null, response: { store: true } },
  ],
  stream: [{ value: false, response: { object: 'response' } }],
  stream_options: [{ value: { include_obfuscation: true }, response: { status: 'completed' } }],
  temperature: [{ value: 0, upstream: { temperature: 0 }, response: { temperature: 0 } }],
  text: [
    {
      value: { format: { type: 'text' }, verbosity: 'low' },
      upstream: { verbosity: 'low', response_format: undefined },
      response: { text: { format: { type: 'text' }, verbosity: 'low' } },
    },
    { value: { format: { type: 'json_object' } }, upstream: { response_format: { type: 'json_object' } } },
    {
      value: { format: { type: 'json_schema', name: 'n', schema: SCHEMA, strict: true, description: 'd' } },
      upstream: {
        response_format: {
          type: 'json_schema',
          json_schema: { name: 'n', schema: SCHEMA, strict: true, description: 'd' },
        },
      },
      response: { text: { format: { type: 'json_schema', name: 'n', schema: SCHEMA } } },
    },
  ],
  tool_choice: [
    { value: 'auto', with: { tools: [TOOL] }, upstream: { tool_choice: 'auto' } },
    { value: 'none', with: { tools: [TOOL] }, upstream: { tool_choice: 'none' } },
    {
      value: 'required',
      with: { tools: [TOOL] },
      upstream: { tool_choice: 'required' },
      response: { tool_choice: 'required' },
    },
    {
      value: { type: 'function', name: 'look' },
      with: { tools: [TOOL] },
      upstream: { tool_choice: { function: { name: 'look' } } },
      response: { tool_choice: { type: 'function', name: 'look' } },
    },
    {
      value: { type: 'allowed_tools', mode: 'required', tools: [{ type: 'function', name: 'look' }] },
      with: { tools: [TOOL, { ...TOOL, name: 'other' }] },
      upstream: { tool_choice: 'required', tools: { length: 1 } },
      response: { tools: { length: 2 } },
    },
    { value: 'none', upstream: { tool_choice: undefined, tools: undefined } },
  ],
  tools: [
    {
      value: [{ ...TOOL, description: 'd', strict: true }],
      upstream: {
        tools: [
          { type: 'function', function: { name: 'look', description: 'd', parameters: TOOL.parameters, strict: true } },
        ],
      },
      response: { tools: [{ type: 'function', name: 'look', description: 'd', strict: true }] },
    },
    {
      value: [{ ...TOOL, defer_loading: true, output_schema: {}, allowed_callers: null, async: false }],
      response: { tools: [{ defer_loading: undefined, output_schema: undefined, allowed_callers: undefined }] },
    },
    { value: [{ type: 'function', name: 'look' }], response: { tools: [{ parameters: null, strict: false }] } },
  ],
  top_logprobs: [{ value: 0, upstream: { top_logprobs: undefined }, response: { top_logprobs: 0 } }],
  top_p: [0, 0.5, 1].map((value) => ({ value, upstream: { top_p: value }, response: { top_p: value } })),
  truncation: [{ value: 'auto', upstream: { truncation: undefined }, response: { truncation: 'auto' } }],
  user: [{ value: 'u', upstream: { user: 'u' }, response: { user: 'u' } }],
};

const REFUSED: Readonly<Partial<Record<FieldName, unknown>>> = {
  access_programs: { cyber: 'standard' },
  background_options: { completion_window: '2h' },
  context_management: [{ type: 'compaction' }],
  conversation: 'conv_1',
  image: { quality: 'high' },
  moderation: { model: 'x' },
  prompt: { id: 'pmpt_1' },
  top_logprobs: 5,
};

t.test('every field is served, left out as a hint, or refused by name', async (t) => {
  const service = await serviceOf(t);
  for (const [name, { verdict }] of Object.entries(REQUEST_FIELDS)) {
    const field = name as FieldName;
    if (verdict === 'refused') {
      const { status, body } = await ask(service, { input: 'q', [name]: REFUSED[field] });
      t.equal(status, 400, name);
      const { note } = REQUEST_FIELDS[field];
      t.same(body.error, {
        message: `${name} is not supported: ${note.replaceAll('`', '')}.`,
        type: 'invalid_request_error',
        param: name,
        code: 'unsupported_parameter',
      });
      t.equal((await ask(service, { input: 'q', [name]: null })).status, 200, `${name}: null`);
    }
    const cases = CASES[field] ?? [];
    t.ok(cases.length > 0 || verdict === 'refused', `${name} is tested`);
    for (const { value, with: others, upstream = {}, response = {} } of cases) {
      const calls = service.upstream.calls.length;
      const { status, body } = await ask(service, { input: 'q', ...others, [name]: value });
      t.equal(status, 200, `${name} ${JSON.stringify(body.error)}`);
      t.match(body, response, name);
      t.match(JSON.parse((await service.upstream.call(calls + 1)).body), upstream, name);
    }
  }
});

const user = (content: unknown) => ({ role: 'user', content });
const call = (id: string, fields: object = {}) => ({
  type: 'function_call',
  call_id: id,
  name: 'look',
  arguments: '{}',
  ...fields,
});
const output = (id: string, value: unknown = 'a cat') => ({ type: 'function_call_output', call_id: id, output: value });
const PNG = 'data:image/png;base64,AAAA';
const PDF = 'data:application/pdf;base64,AAAA';

t.test('items become messages', async (t) => {
  const service = await serviceOf(t);
  const toolCall = (id: string) => ({ id, type: 'function', function: { name: 'look', arguments: '{}' } });
  const cases: [name: string, input: unknown, messages: object[]][] = [
    ['a text', 'q', [{ role: 'user', content: 'q' }]],
    [
      'every role',
      [
        { role: 'system', content: 'sys' },
        {
          type: 'message',
          role: 'developer',
          content: [
            { type: 'input_text', text: 'a' },
            { type: 'input_text', text: 'b' },
          ],
        },
        user('one'),
        {
          role: 'assistant',
          content: [
            { type: 'output_text', text: 'two', annotations: [] },
            { type: 'refusal', refusal: '!' },
          ],
        },
        { role: 'assistant', content: 'more', phase: 'final_answer' },
        user('three'),
      ],
      [
        { role: 'system', content: 'sys' },
        { role: 'system', content: 'a\nb' },
        { role: 'user', content: 'one' },
        { role: 'assistant', content: 'two!\nmore' },
        { role: 'user', content: 'three' },
      ],
    ],
    [
      'images and files',
      [
        user([
          { type: 'input_text', text: 'Look:' },
          { type: 'input_image', image_url: PNG, detail: 'low' },
          { type: 'input_file', file_data: PDF, filename: 'a.pdf' },
        ]),
      ],
      [
        {
          content: [
            { type: 'text', text: 'Look:' },
            { type: 'image_url', image_url: { url: PNG, detail: 'low' } },
            { type: 'file', file: { file_data: PDF, filename: 'a.pdf' } },
          ],
        },
      ],
    ],
    [
      'calls of one step, with their outputs in any order',
      [
        user('q'),
        call('a'),
        call('b'),
        { role: 'assistant', content: 'Wait.' },
        output('b', [
          { type: 'input_text', text: 'B' },
          { type: 'input_text', text: 'C' },
        ]),
        output('a', 'A'),
      ],
      [
        {},
        { role: 'assistant', content: 'Wait.', tool_calls: [toolCall('a'), toolCall('b')] },
        { role: 'tool', tool_call_id: 'a', content: 'A' },
        { role: 'tool', tool_call_id: 'b', content: 'B\nC' },
      ],
    ],
    [
      'steps that use an id again',
      [user('q'), call('a'), output('a', '1'), call('a'), output('a', '2')],
      [
        {},
        { role: 'assistant', tool_calls: [toolCall('a')] },
        { role: 'tool', content: '1' },
        { role: 'assistant', tool_calls: [toolCall('a')] },
        { role: 'tool', content: '2' },
      ],
    ],
    [
      'reasoning of a step with calls: its summary, and the text of an open model',
      [
        user('q'),
        {
          type: 'reasoning',
          summary: [{ type: 'summary_text', text: 's' }],
          content: [{ type: 'reasoning_text', text: 'c' }],
        },
        call('a'),
        output('a'),
      ],
      [{}, { tool_calls: [toolCall('a')], reasoning_content: 's\nc' }, {}],
    ],
    [
      'a call that was cut off but has an output, and reasoning as a text',
      [user('q'), { type: 'reasoning', content: 'r' }, call('a', { status: 'incomplete' }), output('a')],
      [{}, { tool_calls: [toolCall('a')], reasoning_content: 'r' }, { content: 'a cat' }],
    ],
    [
      'a call that was cut off is left out, and reasoning alone is no message',
      [
        user('q'),
        { type: 'reasoning', summary: [{ type: 'summary_text', text: 'hm' }] },
        call('a', { status: 'incomplete' }),
        user('r'),
      ],
      [{ content: 'q' }, { content: 'r' }],
    ],
  ];
  for (const [name, input, messages] of cases) {
    const body = await askedOf(service, { input });
    t.match(body.messages, messages, name);
    t.equal(body.messages.length, messages.length, name);
  }
});

t.test('what Sluice does not have is refused by name, in the form of OpenAI', async (t) => {
  const service = await serviceOf(t, 'limits: { messages: 3 }');
  const many = Array.from({ length: 4 }, () => user('q'));
  const cases: [body: object, param: string | null, code?: string][] = [
    [{}, 'input', 'missing_required_parameter'],
    [{ input: [] }, 'input'],
    [{ input: 'q', foo: 1 }, 'foo', 'unknown_parameter'],
    [{ input: 'q', 'odd name': 1 }, null, 'unknown_parameter'],
    [{ input: 'q', toString: 1 }, 'toString', 'unknown_parameter'],
    [{ input: many }, 'input'],
    [{ input: 'q', background: true, store: false }, 'background'],
    [{ input: 'q', include: ['web_search_call.results'] }, 'include[0]', 'unsupported_parameter'],
    [{ input: 'q', include: ['reasoning.encrypted_content', 'nope'] }, 'include[1]', 'unsupported_parameter'],
    [{ input: 'q', tools: [{ type: 'web_search' }] }, 'tools[0].type', 'unsupported_parameter'],
    [
      { input: 'q', tools: [TOOL, { type: 'mcp', server_url: 'https://x.example' }] },
      'tools[1].type',
      'unsupported_parameter',
    ],
    [{ input: 'q', tools: [TOOL, { ...TOOL, foo: null }] }, 'tools[1].foo', 'unknown_parameter'],
    [{ input: 'q', tools: [{ ...TOOL, function: { name: 'look' } }] }, 'tools[0].function', 'unknown_parameter'],
    [{ input: 'q', tools: [{ ...TOOL, 'odd name': 1 }] }, 'tools[0]', 'unknown_parameter'],
    [
      { input: 'q', tools: [{ ...TOOL, allowed_callers: ['programmatic'] }] },
      'tools[0].allowed_callers',
      'unsupported_parameter',
    ],
    [{ input: 'q', tools: [{ ...TOOL, async: true }] }, 'tools[0].async', 'unsupported_parameter'],
    [{ input: 'q', conversation: '' }, 'conversation', 'unsupported_parameter'],
    [{ input: 'q', reasoning: { effort: 'low', max_tokens: 1 } }, 'reasoning.max_tokens', 'unknown_parameter'],
    [{ input: 'q', reasoning: { toString: 1 } }, 'reasoning.toString', 'unknown_parameter'],
    [{ input: 'q', stream_options: { include_usage: true } }, 'stream_options.include_usage', 'unknown_parameter'],
    [{ input: 'q', text: { response_format: {} } }, 'text.response_format', 'unknown_parameter'],
    [{ input: 'q', text: { format: { type: 'text', foo: 1 } } }, 'text.format.foo', 'unknown_parameter'],
    [{ input: 'q', text: { format: { type: 'json_object', schema: {} } } }, 'text.format.schema', 'unknown_parameter'],
    [
      { input: 'q', tools: [TOOL], tool_choice: { type: 'function', name: 'look', foo: 1 } },
      'tool_choice.foo',
      'unknown_parameter',
    ],
    [
      {
        input: 'q',
        tools: [TOOL],
        tool_choice: { type: 'allowed_tools', tools: [{ type: 'function', name: 'look', foo: 1 }] },
      },
      'tool_choice.tools[0].foo',
      'unknown_parameter',
    ],
    [{ input: [user('q'), { type: 'reasoning', content: [{ type: 'image' }] }] }, 'input[1].content[0]'],
    [{ input: 'q', tools: [{ type: 'function' }] }, 'tools[0].name'],
    [{ input: 'q', tool_choice: 'required' }, 'tool_choice'],
    [{ input: 'q', tools: [TOOL], tool_choice: { type: 'function', name: 'other' } }, 'tool_choice.name'],
    [
      { input: 'q', tools: [TOOL], tool_choice: { type: 'web_search_preview' } },
      'tool_choice.type',
      'unsupported_parameter',
    ],
    [
      { input: 'q', tools: [TOOL], tool_choice: { type: 'allowed_tools', tools: [{ type: 'function', name: 'no' }] } },
      'tool_choice.tools[0].name',
    ],
    [
      { input: 'q', tools: [TOOL], tool_choice: { type: 'allowed_tools', tools: [{ type: 'mcp' }] } },
      'tool_choice.tools[0].type',
      'unsupported_parameter',
    ],
    [{ input: 'q', tools: [TOOL], tool_choice: { type: 'allowed_tools' } }, 'tool_choice.tools'],
    [{ input: 'q', text: { format: { type: 'json_schema', schema: {} } } }, 'text.format.name'],
    [{ input: 'q', text: { format: { type: 'json_schema', name: 'n' } } }, 'text.format.schema'],
    [{ input: 'q', text: { format: { type: 'grammar' } } }, 'text.format.type'],
    [{ input: 'q', metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, 'v'])) }, 'metadata'],
    [{ input: 'q', metadata: { k: 'v'.repeat(513) } }, 'metadata'],
    [{ input: 'q', metadata: { ['k'.repeat(65)]: 'v' } }, 'metadata'],
    [{ input: 'q', metadata: { k: 1 } }, 'metadata'],
    [{ input: 'q', temperature: 3 }, 'temperature'],
    [{ input: 'q', max_output_tokens: 0 }, 'max_output_tokens'],
    [{ input: [{ type: 'web_search_call', id: 'ws_1' }] }, 'input[0].type'],
    [{ input: [{ type: 'computer_call_output', output: 'x' }] }, 'input[0].type'],
    [
      { input: [user('q'), { role: 'assistant', content: [{ type: 'input_image', image_url: PNG }] }] },
      'input[1].content[0]',
    ],
    [{ input: [{ content: 'q' }] }, 'input[0].role'],
    [{ input: [user(undefined)] }, 'input[0].content'],
    [{ input: [user([])] }, 'input[0].content'],
    [{ input: [user([{ type: 'text', text: 'x', foo: 1 }])] }, 'input[0].content[0].foo', 'unknown_parameter'],
    [
      { input: [call('a'), output('a', [{ type: 'input_text', text: 'x', foo: 1 }])] },
      'input[1].output[0].foo',
      'unknown_parameter',
    ],
    [{ input: [{ type: 'toString' }] }, 'input[0].type'],
    [{ input: [user([{ type: 'input_text' }])] }, 'input[0].content[0]'],
    [{ input: [user('q'), { role: 'assistant' }] }, 'input[1].content'],
    [{ input: [user('q'), { role: 'assistant', content: [{ type: 'output_text' }] }] }, 'input[1].content[0]'],
    [{ input: [user('q'), { role: 'assistant', content: [{ type: 'refusal' }] }] }, 'input[1].content[0]'],
    [{ input: [user('q'), { type: 'reasoning', content: [{ type: 'reasoning_text' }] }] }, 'input[1].content[0]'],
    [{ input: [user([{ type: 'input_audio' }])] }, 'input[0].content[0]'],
    [
      { input: [user([{ type: 'input_image', file_id: 'file_1' }])] },
      'input[0].content[0].file_id',
      'unsupported_parameter',
    ],
    [
      { input: [user([{ type: 'input_image', image_url: 'http://x.example/a.png' }])] },
      'input[0].content[0].image_url',
    ],
    [{ input: [user([{ type: 'input_image', image_url: 'data:text/html,x' }])] }, 'input[0].content[0].image_url'],
    [{ input: [user([{ type: 'input_file', file_data: 'AAAA' }])] }, 'input[0].content[0].file_data'],
    [{ input: [user([{ type: 'input_file', file_url: 'file:///etc/passwd' }])] }, 'input[0].content[0].file_url'],
    [{ input: [user('q'), output('a')] }, 'input[1].call_id'],
    [{ input: [call('a'), output('a'), output('a')] }, 'input[2].call_id'],
    [{ input: [user('q'), call('a')] }, 'input'],
    [{ input: [user('q'), call('a', { call_id: undefined })] }, 'input[1]'],
    [{ input: [user('q'), call('a', { name: null }), output('a')] }, 'input[1]'],
    [{ input: [call('a'), { type: 'function_call_output', call_id: 'a' }] }, 'input[1].output'],
    [{ input: [output('a'), call('a')] }, 'input[0].call_id'],
    [{ input: [call('a'), output('a', [{ type: 'input_image', image_url: PNG }])] }, 'input[1].output[0]'],
    [
      { input: 'q', previous_response_id: `resp_${'A'.repeat(22)}` },
      'previous_response_id',
      'previous_response_not_found',
    ],
    [{ input: 'q', previous_response_id: 'chatcmpl-1' }, 'previous_response_id', 'previous_response_not_found'],
  ];
  for (const [body, param, code = 'invalid_request'] of cases) {
    const { status, body: answer } = await ask(service, body);
    t.equal(status, 400, JSON.stringify(body).slice(0, 200));
    t.match(answer.error, { param, code, type: 'invalid_request_error' }, JSON.stringify(body).slice(0, 200));
  }
  const missing = await ask(service, { input: [{ type: 'item_reference', id: `msg_${'A'.repeat(22)}_0` }] });
  t.match([missing.status, missing.body.error.param], [404, 'input[0].id']);
  const huge = await fetch(service.url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"input":"q","tools":[{"type":"function","name":"f","parameters":{"maximum":1e999}}]}',
  });
  t.equal(huge.status, 400, 'a number beyond all');
  t.equal(service.upstream.calls.length, 0, 'no provider call');
});

t.test('each member of items and of their parts is accepted or refused by name', async (t) => {
  const service = await serviceOf(t);
  /** Values of members that have no effect, and of those that are refused. */
  const values: Record<string, unknown> = {
    ...{ annotations: [{ type: 'file_path', file_id: 'f', index: 0 }], logprobs: [{ token: 'a' }], parsed: { a: 1 } },
    ...{ caller: { type: 'program', caller_id: 'p' }, created_by: 'u', detail: 'low', file_id: 'file_1' },
    ...{
      async: true,
      name: 'look',
      namespace: 'n',
      parsed_arguments: { a: 1 },
      phase: 'commentary',
      prompt_cache_breakpoint: { mode: 'explicit' },
    },
    status: 'completed',
  };
  const part = (role: string, fields: object) => ({
    path: 'input[0].content[0]',
    input: [{ role, content: [fields] }],
  });
  const text = (type: string) => ({ type, text: 'x' });
  const places: Record<string, { path: string; input: { [name: string]: unknown }[] }> = {
    message: { path: 'input[0]', input: [user('q')] },
    function_call: { path: 'input[0]', input: [call('a'), output('a')] },
    function_call_output: { path: 'input[1]', input: [call('a'), output('a')] },
    reasoning: { path: 'input[0]', input: [{ type: 'reasoning', summary: [] }, user('q')] },
    input_text: part('user', text('input_text')),
    input_image: part('user', { type: 'input_image', image_url: PNG }),
    input_file: part('user', { type: 'input_file', file_data: PDF }),
    output_text: part('assistant', text('output_text')),
    refusal: part('assistant', { type: 'refusal', refusal: 'no' }),
    reasoning_text: {
      path: 'input[0].content[0]',
      input: [{ type: 'reasoning', summary: [], content: [text('reasoning_text')] }, user('q')],
    },
    summary_text: {
      path: 'input[0].summary[0]',
      input: [{ type: 'reasoning', summary: [text('summary_text')] }, user('q')],
    },
  };
  /** Returns the items with one more member at a path. */
  const withMember = (items: object[], path: string, name: string, value: unknown) => {
    const copy = structuredClone(items);
    const steps = path.match(/\w+/g)?.slice(1) ?? [];
    const place = steps.reduce((at, step) => at[step], copy as unknown as Body);
    place[name] = value;
    return copy;
  };
  for (const [type, rules] of Object.entries({ ...ITEM_FIELDS, ...PART_FIELDS })) {
    if (type === 'item_reference') continue;
    const { path, input } = places[type] as (typeof places)[string];
    const plain = (await askedOf(service, { input })).messages;
    for (const [name, { verdict }] of Object.entries(rules)) {
      if (verdict === 'served') continue;
      const items = withMember(input, path, name, values[name]);
      if (verdict === 'hint') t.same((await askedOf(service, { input: items })).messages, plain, `${type}.${name}`);
      else {
        const { status, body } = await ask(service, { input: items });
        t.match([status, body.error], [400, { param: `${path}.${name}`, code: 'unsupported_parameter' }]);
        t.equal((await ask(service, { input: withMember(input, path, name, null) })).status, 200, `${name}: null`);
      }
    }
    const { status, body } = await ask(service, { input: withMember(input, path, 'foo', null) });
    t.match([status, body.error], [400, { param: `${path}.foo`, code: 'unknown_parameter' }], type);
  }
  for (const items of [
    [call('a', { caller: { type: 'direct' } }), output('a')],
    [{ role: 'user', content: [{ type: 'text', text: 'x' }] }],
  ])
    t.equal((await ask(service, { input: items })).status, 200);
  const reference = { type: 'item_reference', id: `msg_${'A'.repeat(22)}_0`, role: 'user' };
  t.match((await ask(service, { input: [reference] })).body.error, { param: 'input[0].role' });
});

t.test('a question that is too long to be kept is answered, unless the client insists', async (t) => {
  const service = await serviceOf(t, 'responses: { maxRequestChars: 1024 }');
  const input = 'q'.repeat(1_100);
  const { status, body } = await ask(service, { input });
  t.match([status, body.store], [200, false]);
  t.equal((await fetch(`${service.url}/${body.id}`)).status, 404);
  for (const fields of [{ store: true }, { background: true }])
    t.equal((await ask(service, { input, ...fields })).status, 413);
});

t.test('keys: limits count, and models are checked', async (t) => {
  const yaml = `keys:
  - { name: a, sha256: "${sha256('sk-a')}", models: [p/other], requestsPerMinute: 3 }`;
  const { url } = await serviceOf(t, yaml);
  const post = (key: string) => postJson(url, { model: 'p/m', input: 'q' }, bearer(key));
  t.match(await (await post('wrong')).json(), { error: { type: 'authentication_error', code: 'unauthorized' } });
  t.match(await (await post('sk-a')).json(), { error: { type: 'permission_error', code: 'forbidden' } });
  const guess = () => fetch(`${url}/resp_${'A'.repeat(22)}`, { headers: bearer('sk-a') });
  t.match(
    [(await guess()).status, (await guess()).status, (await guess()).status],
    [404, 404, 429],
    'guesses are counted',
  );
});
