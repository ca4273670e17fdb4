import fc from 'fast-check';
import { anyJson, text } from './values.ts';

/** Likely values of places that the schemas leave open, so that valid requests reach the code behind them. */

/** Public names of the models of the service. `unknown` is not one. */
export const MODELS = ['chat', 'claude', 'gem', 'llama', 'unknown'] as const;

type Fields = Record<string, unknown>;

const object = (fields: Record<string, fc.Arbitrary<unknown>>, ...required: string[]) =>
  fc.record(fields, { requiredKeys: required });
const word = <T extends string>(value: T) => fc.constant(value);
const callId = fc.constantFrom('call_1', 'call_2', 'functions.f:0', 'é');
const toolName = fc.constantFrom('f', 'get_weather', 'a.b:c-1');
/** Addresses in place of names, so that no name is looked up. */
const image = fc.constantFrom(
  'https://93.184.215.14/a.png',
  'https://93.184.215.14/a.png?x=1#y',
  'data:image/png;base64,AAAA',
  'data:image/',
);
const pdf = fc.constantFrom('https://93.184.215.14/a.pdf', 'data:application/pdf;base64,AAAA');
const cacheControl = fc.constantFrom({ type: 'ephemeral' }, { type: 'ephemeral', ttl: '1h' }, null);
const schemaOfTool = fc.oneof(
  fc.constantFrom(
    {},
    { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
    {
      type: 'object',
      properties: { a: { anyOf: [{ type: 'integer' }, { type: 'null' }] } },
      additionalProperties: false,
    },
    { type: 'object', $defs: { n: { type: 'number' } }, properties: { n: { $ref: '#/$defs/n' } } },
  ),
  fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), anyJson, { maxKeys: 3 }),
);
const json = fc.oneof(fc.constantFrom('{}', '{"city":"Oslo"}', '', '[', 'null', '7'), text());

const chatPart = fc.oneof(
  object({ type: word('text'), text: text(), cache_control: cacheControl }, 'type', 'text'),
  object(
    { type: word('image_url'), image_url: object({ url: image, detail: fc.constantFrom('auto', 'low', null) }, 'url') },
    'type',
    'image_url',
  ),
  object({ type: word('file'), file: object({ file_data: pdf, filename: text(0, 256) }, 'file_data') }, 'type', 'file'),
  object({ type: word('refusal'), refusal: text() }, 'type'),
);
const textParts = fc.array(object({ type: word('text'), text: text() }, 'type', 'text'), {
  minLength: 1,
  maxLength: 3,
});
const chatMessage = fc.oneof(
  object(
    { role: word('user'), content: fc.oneof(text(), fc.array(chatPart, { minLength: 1, maxLength: 3 })) },
    'role',
    'content',
  ),
  object({ role: fc.constantFrom('system', 'developer'), content: fc.oneof(text(), textParts) }, 'role', 'content'),
  object({ role: word('assistant'), content: fc.oneof(text(), textParts, fc.constant(null)) }, 'role'),
);
const call = object(
  {
    id: callId,
    type: word('function'),
    function: object({ name: toolName, arguments: json }, 'name', 'arguments'),
    extra_content: fc.oneof(
      fc.constant({ google: { thought_signature: 'AA' }, sluice: { provider: 'one' } }),
      fc.constant(null),
    ),
  },
  'id',
  'function',
);
const detail = fc.oneof(
  fc.constantFrom(
    { type: 'reasoning.encrypted', data: 'AA', provider: 'one' },
    { type: 'thinking', thinking: 'x', signature: 's', provider: 'two' },
  ),
  fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), anyJson, { maxKeys: 3 }),
);
/** A call of the assistant and its result. */
const toolTurn = fc
  .tuple(
    object(
      {
        role: word('assistant'),
        tool_calls: fc.array(call, { minLength: 1, maxLength: 2 }),
        content: text(),
        reasoning: text(),
        reasoning_details: fc.array(detail, { maxLength: 2 }),
      },
      'role',
      'tool_calls',
    ),
    fc.oneof(text(), textParts),
  )
  .map(([assistant, content]) => {
    const [{ id }] = (assistant as { tool_calls: [{ id: string }] }).tool_calls;
    return [assistant, { role: 'tool', tool_call_id: id, content }];
  });
const chatMessages = fc
  .array(fc.oneof({ arbitrary: chatMessage.map((one) => [one]), weight: 3 }, toolTurn), { minLength: 1, maxLength: 4 })
  .map((turns) => turns.flat());

const chatOptions = object({
  n: fc.constantFrom(1, null),
  seed: fc.integer(),
  user: text(),
  metadata: fc.constantFrom({}, { a: 'b' }, { url: 'https://x.example' }),
  logit_bias: fc.constantFrom({}, { 50256: -100 }),
  parallel_tool_calls: fc.boolean(),
  presence_penalty: fc.double({ min: -2, max: 2, noNaN: true }),
  service_tier: fc.constantFrom('auto', 'default'),
  logprobs: fc.constantFrom(false, null),
  modalities: fc.constantFrom(['text'], null),
  made_up: anyJson,
});

const uiPart = fc.oneof(
  object({ type: word('text'), text: text() }, 'type'),
  object({ type: word('reasoning'), text: text() }, 'type'),
  object(
    { type: word('file'), mediaType: word('image/png'), url: image, filename: text() },
    'type',
    'mediaType',
    'url',
  ),
  object(
    { type: word('file'), mediaType: word('application/pdf'), url: pdf, filename: anyJson },
    'type',
    'mediaType',
    'url',
  ),
  fc.constantFrom({ type: 'step-start' }, { type: 'data-x', data: [1] }, { type: 'source-url', url: 'x' }),
  object(
    {
      type: fc.constantFrom('tool-f', 'tool-', 'dynamic-tool'),
      toolName,
      toolCallId: callId,
      state: fc.constantFrom('input-available', 'output-available', 'output-error', 'output-denied'),
      input: anyJson,
      output: anyJson,
      errorText: anyJson,
      approval: fc.constantFrom(null, {}, { reason: 'no' }, { reason: 1 }),
      callProviderMetadata: fc.constantFrom(
        null,
        {},
        { sluice: null },
        { sluice: { provider: 'one', details: [{ type: 'x' }, 1], extraContent: { a: 1 } } },
      ),
    },
    'type',
    'toolCallId',
  ),
);

const inputPart = fc.oneof(
  object({ type: word('input_text'), text: text() }, 'type', 'text'),
  object({ type: word('input_image'), image_url: image, detail: fc.constantFrom('auto', 'low') }, 'type', 'image_url'),
  object({ type: word('input_file'), file_data: fc.constant('data:application/pdf;base64,AAAA') }, 'type', 'file_data'),
);
const outputParts = fc.array(object({ type: word('output_text'), text: text() }, 'type', 'text'), { maxLength: 2 });
/** A call and its output. */
const callItems = fc
  .tuple(
    object(
      { type: word('function_call'), call_id: callId, name: toolName, arguments: json },
      'type',
      'call_id',
      'name',
      'arguments',
    ),
    fc.oneof(text(), outputParts),
  )
  .map(([call, output]) => {
    return [call, { type: 'function_call_output', call_id: (call as { call_id: string }).call_id, output }];
  });
const inputMessage = fc.oneof(
  object(
    { role: word('user'), content: fc.oneof(text(), fc.array(inputPart, { minLength: 1, maxLength: 3 })) },
    'role',
    'content',
  ),
  object({ role: fc.constantFrom('system', 'developer'), content: text() }, 'role', 'content'),
  object(
    { type: word('message'), role: word('assistant'), content: fc.oneof(text(), outputParts) },
    'type',
    'role',
    'content',
  ),
  object(
    {
      type: word('reasoning'),
      summary: fc.array(object({ type: word('summary_text'), text: text() }, 'type', 'text')),
      encrypted_content: text(),
    },
    'type',
    'summary',
  ),
);
const inputItems = fc
  .array(fc.oneof({ arbitrary: inputMessage.map((one) => [one]), weight: 3 }, callItems), { maxLength: 4 })
  .map((items) => [{ role: 'user', content: 'q' }, ...items.flat()]);

const PLACES: Readonly<Record<string, Readonly<Record<string, fc.Arbitrary<unknown>>>>> = {
  'post /v1/chat/completions': {
    messages: chatMessages,
    'tools.*.function.parameters': schemaOfTool,
    'response_format.json_schema.schema': schemaOfTool,
    reasoning_effort: fc.constantFrom('low', 'high', 'none'),
    '.+': chatOptions as fc.Arbitrary<Fields>,
  },
  'post /v1/responses': {
    input: fc.oneof(text(), inputItems),
    include: fc.constantFrom([], ['reasoning.encrypted_content'], null),
    previous_response_id: fc.constant(null),
    metadata: fc.constantFrom({}, { a: 'b' }, null),
    tools: fc.array(
      object(
        { type: word('function'), name: toolName, parameters: schemaOfTool, strict: fc.boolean() },
        'type',
        'name',
      ),
      { maxLength: 2 },
    ),
    tool_choice: fc.constantFrom('auto', 'none', null),
    top_logprobs: fc.constantFrom(0, null),
    'text.format': fc.constantFrom(
      { type: 'text' },
      { type: 'json_object' },
      { type: 'json_schema', name: 'x', schema: { type: 'object' } },
      null,
    ),
    'reasoning.effort': fc.constantFrom('low', 'high', 'none'),
  },
  'post /ui/chat': {
    'messages.*.parts.*': uiPart,
    'tools.*.parameters': schemaOfTool,
    reasoningEffort: fc.constantFrom('low', 'high', 'none'),
  },
};

/** Returns the function `likely` of an operation, for `validValue`. */
export function likelyOf(operation: string) {
  return (place: string): fc.Arbitrary<unknown> | undefined => PLACES[operation]?.[place];
}
