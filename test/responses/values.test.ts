import t from 'tap';
import { REQUEST_FIELDS } from '../../routes/responses/fields.ts';
import { postJson } from '../post-json.ts';
import { anthropic } from '../providers/dialects.ts';
import { sse, startUpstream } from '../upstream.ts';
import { ask, askedOf, type Body, serviceOf } from './service.ts';

/** Values of the fields of a request: defaults, null, and those at a bound. */

const TOOL = { type: 'function', name: 'look' };
const user = (content: unknown) => ({ role: 'user', content });
const image = (url: string) => [user([{ type: 'input_image', image_url: url }])];

t.test('a response has every field, with the defaults of the request', async (t) => {
  const service = await serviceOf(t);
  const before = Math.floor(Date.now() / 1000);
  const { body } = await ask(service, { input: 'q' });
  const { id, created_at: createdAt, output, ...fields } = body;
  t.match(id, /^resp_[\w-]{22}$/);
  t.ok(createdAt >= before && createdAt <= Date.now() / 1000, 'Unix time in seconds');
  t.match(output, [{ type: 'message', role: 'assistant', status: 'completed', content: [{ text: 'ok' }] }]);
  t.same(fields, {
    ...{ object: 'response', status: 'completed', error: null, incomplete_details: null, model: 'p/m', usage: null },
    ...{ background: false, instructions: null, max_output_tokens: null, max_tool_calls: null, metadata: {} },
    ...{ parallel_tool_calls: true, previous_response_id: null, prompt_cache_key: null },
    ...{ reasoning: { effort: null, summary: null }, safety_identifier: null, service_tier: null, store: true },
    ...{ temperature: null, text: { format: { type: 'text' }, verbosity: null }, tool_choice: 'auto', tools: [] },
    ...{ top_logprobs: 0, top_p: null, truncation: 'disabled' },
  });
  const kept = (await (await fetch(`${service.url}/${id}`)).json()) as Body;
  const { completed_at: completedAt, ...others } = kept;
  t.ok(completedAt >= createdAt && completedAt <= Date.now() / 1000, 'also the time of its end');
  t.same(others, body, 'the kept response is the same');
});

/** A response repeats the format of the text as it was sent. */
const withoutNulls = (value: object) => JSON.parse(JSON.stringify(value, (_, member) => member ?? undefined));

t.test('null is the same as an absent field', async (t) => {
  const service = await serviceOf(t);
  const forms = [
    [{}, Object.fromEntries(Object.keys(REQUEST_FIELDS).map((name) => [name, null]))],
    [{}, { reasoning: { effort: null, summary: null, generate_summary: null, context: null, mode: null } }],
    [{}, { text: { format: null, verbosity: null }, stream_options: { include_obfuscation: null } }],
    [{}, { text: { format: { type: 'text', description: null, strict: null } } }],
    [{ tools: [TOOL] }, { tools: [{ ...TOOL, description: null, parameters: null, strict: null }] }],
    [
      { text: { format: { type: 'json_schema', name: 'n', schema: {} } } },
      { text: { format: { type: 'json_schema', name: 'n', schema: {}, description: null, strict: null } } },
    ],
  ] as const;
  for (const [absent, value] of forms) {
    const asked = async (fields: object) => {
      const { body } = await ask(service, { ...fields, model: 'p/m', input: 'q' });
      const { id: _, created_at: __, output: ___, ...response } = body;
      return { response: withoutNulls(response), prompt: JSON.parse(service.upstream.calls.at(-1)?.body ?? '') };
    };
    t.same(await asked(value), await asked(absent), JSON.stringify(value));
  }
});

t.test('an empty value asks for nothing, also of a field that is refused', async (t) => {
  const service = await serviceOf(t);
  const plain = await askedOf(service, { input: 'q' });
  for (const fields of [{ context_management: [] }, { moderation: false }, { instructions: '' }, { include: [] }])
    t.same(await askedOf(service, { input: 'q', ...fields }), plain, JSON.stringify(fields));
});

t.test('the provider gets only what the request says', async (t) => {
  const service = await serviceOf(t);
  const tools = [TOOL, { ...TOOL, name: 'other' }];
  const allowed = { type: 'allowed_tools', tools: [TOOL] };
  t.match(await askedOf(service, { input: 'q', tools, tool_choice: allowed }), {
    tool_choice: 'auto',
    tools: { length: 1 },
  });
  const options = { parallel_tool_calls: undefined, tool_choice: undefined };
  t.match(await askedOf(service, { input: 'q', tools, parallel_tool_calls: true }), options);
  t.match(await askedOf(service, { input: 'q', tool_choice: 'auto' }), { ...options, tools: undefined });
  const format = { type: 'json_schema', name: 'n', schema: {}, strict: false };
  t.match(await askedOf(service, { input: 'q', text: { format } }), {
    response_format: { json_schema: { strict: false } },
  });
});

t.test('values at a bound are accepted', async (t) => {
  const service = await serviceOf(t);
  const names = Array.from({ length: 16 }, (_, i) => String(i).padStart(64, 'k'));
  const metadata = Object.fromEntries(names.map((name) => [name, 'v'.repeat(512)]));
  t.same((await ask(service, { input: 'q', metadata })).body.metadata, metadata);
  const path = 'https://93.184.215.14/';
  const urls = [path + 'a'.repeat(2_048 - path.length), 'data:image/svg+xml,x', 'data:image/vnd.ms-photo;base64,AA'];
  for (const url of urls) {
    const { messages } = await askedOf(service, { input: image(url) });
    t.equal(messages[0].content[0].image_url.url, url);
  }
  for (const url of [
    `${path}${'a'.repeat(2_049 - path.length)}`,
    'https://',
    `${path} a`,
    ` ${path}`,
    'data:image/png',
  ])
    t.match((await ask(service, { input: image(url) })).body.error, { param: 'input[0].content[0].image_url' }, url);
});

t.test('a PDF may be a URL, and nothing else is a PDF', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => void sse(response).end(anthropic.answer('end_turn')));
  const yaml = `q: { type: anthropic, baseUrl: "${upstream.url}", apiKeys: [k], models: [m] }`;
  const service = await serviceOf(t, '', yaml);
  const file = (fields: object) => ({ model: 'q/m', input: [user([{ type: 'input_file', ...fields }])] });
  t.match((await ask(service, file({ file_url: 'https://93.184.215.14/a.pdf' }))).body, { status: 'completed' });
  const { messages } = JSON.parse((await upstream.call(1)).body);
  t.match(messages[0].content[0], { type: 'document', source: { type: 'url', url: 'https://93.184.215.14/a.pdf' } });
  const wrong: [fields: object, member: string][] = [
    [{ file_data: 'data:text/html,x' }, 'file_data'],
    [{ file_data: 'https://93.184.215.14/a.pdf' }, 'file_data'],
    [{ file_url: 'data:application/pdf,x' }, 'file_url'],
    [{}, 'file_url'],
  ];
  for (const [fields, member] of wrong)
    t.match((await ask(service, file(fields))).body.error, { param: `input[0].content[0].${member}` }, member);
  t.equal(upstream.calls.length, 1);
});

t.test('the message of a refusal names the parameter, but no name that a client has made up', async (t) => {
  const service = await serviceOf(t);
  const cases: [fields: object, message: string][] = [
    [{ foo: 1 }, 'Unknown parameter: foo.'],
    [{ ['f'.repeat(40)]: 1 }, `Unknown parameter: ${'f'.repeat(40)}.`],
    [{ ['f'.repeat(41)]: 1 }, 'Unknown parameter.'],
    [{ tools: [{ ...TOOL, 'odd name': 1 }] }, 'Unknown parameter in tools[0].'],
    [{ tools: [{ ...TOOL, foo: 1 }] }, 'Unknown parameter: tools[0].foo.'],
    [{ include: ['nope'] }, 'include[0] is not supported.'],
  ];
  for (const [fields, message] of cases)
    t.equal((await ask(service, { input: 'q', ...fields })).body.error.message, message);
});

t.test('a number that no JSON can repeat is refused wherever it is', async (t) => {
  const service = await serviceOf(t);
  const schema = '{"enum":[1,{"maximum":1e999}]}';
  for (const [name, value] of Object.entries({
    text: `{"format":{"type":"json_schema","name":"n","schema":${schema}}}`,
    tools: `[{"type":"function","name":"f","parameters":${schema}}]`,
  })) {
    const body = `{"model":"p/m","input":"q","${name}":${value}}`;
    const headers = { 'content-type': 'application/json' };
    const response = await fetch(service.url, { method: 'POST', headers, body });
    t.match([response.status, await response.json()], [400, { error: { param: name } }], name);
  }
  t.equal((await postJson(service.url, { model: 'p/m', input: 'q', tools: [TOOL] })).status, 200);
});
