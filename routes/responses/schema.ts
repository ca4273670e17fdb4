import { type Static, type TSchema, Type } from '@sinclair/typebox';
import { MaxTokens, ModelName, ReasoningEffort } from '../chat-request.ts';

/**
 * The body of a Responses request, as wide as OpenAI's: `fields.ts`, `input.ts` and `tools.ts` refuse by name what
 * Sluice does not have.
 */

const Words = <T extends string[]>(...words: [...T]) => Type.Unsafe<T[number]>({ type: 'string', enum: words });
const OrNull = <T extends TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));
const AnyFields = Type.Record(Type.String(), Type.Unknown());
const TypeName = Type.String({ maxLength: 64 });
const FunctionName = Type.String({ pattern: '^[A-Za-z0-9_.:-]{1,128}$' });
/** As in `/v1/chat/completions`. */
const CallId = Type.String({ minLength: 1, maxLength: 65_536 });
const Id = Type.String({ maxLength: 256 });

const ContentPart = Type.Object({
  type: Type.String({
    maxLength: 64,
    description:
      '`input_text`; `input_image` and `input_file` in messages of users; `output_text` and `refusal` in answers',
  }),
  text: Type.Optional(Type.String()),
  refusal: Type.Optional(Type.String()),
  image_url: OrNull(Type.String({ description: 'https: URL of at most 2,048 characters, or data:image/ URL' })),
  detail: OrNull(Words('auto', 'low', 'high', 'original')),
  file_data: OrNull(Type.String({ description: 'PDF as a data: URL' })),
  file_url: OrNull(Type.String({ description: 'https: URL of a PDF' })),
  filename: OrNull(Type.String({ maxLength: 256 })),
  file_id: OrNull(Type.String({ maxLength: 256, description: 'Not supported' })),
});

const Content = Type.Union([Type.String(), Type.Array(ContentPart, { maxItems: 1_000 })]);
const SummaryPart = Type.Object({ type: TypeName, text: Type.String() });

const InputItem = Type.Object({
  type: OrNull(
    Type.String({
      maxLength: 64,
      description:
        '`message`, `function_call`, `function_call_output`, `reasoning` or `item_reference`. An `id` alone is a reference',
    }),
  ),
  id: OrNull(Id),
  role: Type.Optional(Words('system', 'developer', 'user', 'assistant')),
  content: OrNull(Content),
  status: OrNull(Words('in_progress', 'completed', 'incomplete')),
  call_id: Type.Optional(CallId),
  name: OrNull(FunctionName),
  arguments: Type.Optional(Type.String()),
  output: Type.Optional(Content),
  summary: Type.Optional(Type.Array(SummaryPart, { maxItems: 1_000 })),
  encrypted_content: OrNull(Type.String({ description: 'As Sluice has sent it: the provider wants it back' })),
});

const Tool = Type.Object({
  type: Type.String({ maxLength: 64, description: 'Only `function` is supported' }),
  name: Type.Optional(FunctionName),
  description: OrNull(Type.String()),
  parameters: OrNull(AnyFields),
  strict: OrNull(Type.Boolean()),
});

const NamedTool = Type.Object({ type: TypeName, name: Type.Optional(FunctionName) });

const ToolChoice = Type.Union([
  Words('auto', 'none', 'required'),
  Type.Object({
    ...NamedTool.properties,
    mode: Type.Optional(Words('auto', 'required')),
    tools: Type.Optional(Type.Array(NamedTool, { minItems: 1, maxItems: 1_000 })),
  }),
]);

const TextFormat = Type.Object({
  type: Words('text', 'json_object', 'json_schema'),
  name: Type.Optional(Type.String({ pattern: '^[A-Za-z0-9_-]{1,64}$' })),
  description: OrNull(Type.String()),
  schema: Type.Optional(AnyFields),
  strict: OrNull(Type.Boolean()),
});

/** Its members are checked in `request.ts`: an error of the schema would repeat their names. */
const Metadata = Type.Record(Type.String(), Type.Unknown(), {
  description: 'At most 16 names of at most 64 characters, with texts of at most 512 characters',
});

/** Returns the body of `POST /v1/responses`. */
export function responseBody(maxItems: number) {
  return Type.Object({
    model: OrNull(ModelName),
    input: Type.Optional(
      Type.Union([Type.String(), Type.Array(InputItem, { maxItems })], {
        description: 'Needed unless `previous_response_id` is given',
      }),
    ),
    instructions: OrNull(Type.String({ description: 'System text, placed before all messages' })),
    previous_response_id: OrNull(Id),
    stream: OrNull(Type.Boolean()),
    background: OrNull(Type.Boolean({ description: 'The answer continues without a reader' })),
    store: OrNull(Type.Boolean({ description: 'True by default' })),
    include: OrNull(Type.Array(Type.String({ maxLength: 64 }), { maxItems: 32 })),
    tools: OrNull(Type.Array(Tool, { maxItems: 1_000 })),
    tool_choice: OrNull(ToolChoice),
    parallel_tool_calls: OrNull(Type.Boolean()),
    max_tool_calls: OrNull(Type.Integer({ minimum: 1 })),
    max_output_tokens: OrNull(MaxTokens),
    temperature: OrNull(Type.Number({ minimum: 0, maximum: 2 })),
    top_p: OrNull(Type.Number({ minimum: 0, maximum: 1 })),
    top_logprobs: OrNull(Type.Integer({ minimum: 0, maximum: 20, description: 'Only 0 is supported' })),
    text: OrNull(Type.Object({ format: OrNull(TextFormat), verbosity: OrNull(Words('low', 'medium', 'high')) })),
    reasoning: OrNull(
      Type.Object({
        effort: OrNull(ReasoningEffort),
        summary: OrNull(Words('auto', 'concise', 'detailed')),
        generate_summary: OrNull(Words('auto', 'concise', 'detailed')),
        context: OrNull(TypeName),
        mode: OrNull(TypeName),
      }),
    ),
    metadata: OrNull(Metadata),
    user: OrNull(Type.String({ maxLength: 1_024 })),
    safety_identifier: OrNull(Type.String({ maxLength: 64 })),
    prompt_cache_key: OrNull(Type.String({ maxLength: 1_024 })),
    prompt_cache_retention: OrNull(Words('in_memory', 'in-memory', '24h')),
    service_tier: OrNull(Type.String({ maxLength: 64 })),
    truncation: OrNull(Words('auto', 'disabled')),
    stream_options: OrNull(Type.Object({ include_obfuscation: OrNull(Type.Boolean()) })),
  });
}

export type ResponseBody = Static<ReturnType<typeof responseBody>>;
export type InputItem = Static<typeof InputItem>;
export type InputPart = Static<typeof ContentPart>;

const Include = Type.Optional(
  Type.Union([Type.String({ maxLength: 64 }), Type.Array(Type.String({ maxLength: 64 }), { maxItems: 32 })]),
);
/** Query parameters of the SDKs: a list is `include[]=`, and a number or a boolean is text. */
const TrueOrFalse = Type.Optional(Words('true', 'false'));

export const ResponseParams = Type.Object({ id: Type.String({ description: '`resp_` and the id of the stream' }) });

export const RetrieveQuery = Type.Object({
  stream: TrueOrFalse,
  starting_after: Type.Optional(
    Type.String({ pattern: '^\\d{1,15}$', description: 'Number of the last event that the client has' }),
  ),
  include: Include,
  'include[]': Include,
  include_obfuscation: TrueOrFalse,
});

export const InputItemsQuery = Type.Object({
  after: Type.Optional(Type.String({ maxLength: 256, description: 'Id of the last item that the client has' })),
  limit: Type.Optional(Type.String({ pattern: '^([1-9]|[1-9]\\d|100)$', description: '1 to 100; 20 by default' })),
  order: Type.Optional(Words('asc', 'desc')),
  include: Include,
  'include[]': Include,
});
