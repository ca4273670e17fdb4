import { Type } from '@sinclair/typebox';

/** Schemas of what `/v1/responses` returns. OpenAI's reference describes the fields; only some are repeated here. */

const AnyFields = Type.Record(Type.String(), Type.Unknown());

const Response = Type.Object(
  {
    id: Type.String({ description: '`resp_` and the id of the stream' }),
    object: Type.Literal('response'),
    created_at: Type.Integer({ description: 'Unix time' }),
    completed_at: Type.Optional(Type.Integer({ description: 'Unix time; only where it is known' })),
    status: Type.String({
      description: '`queued`, `in_progress`, `completed`, `incomplete`, `failed` or `cancelled`',
    }),
    error: Type.Union([Type.Object({ code: Type.String(), message: Type.String() }), Type.Null()]),
    incomplete_details: Type.Union([
      Type.Object({ reason: Type.String({ description: '`max_output_tokens`, `content_filter` or `other`' }) }),
      Type.Null(),
    ]),
    model: Type.String({ description: 'Public name' }),
    output: Type.Array(AnyFields, {
      description: 'Items of type `message`, `reasoning` and `function_call`. Empty until the answer has ended.',
    }),
    usage: Type.Union([AnyFields, Type.Null()], { description: 'Tokens as the provider counted them' }),
  },
  { $id: 'Response', description: 'A response, with the fields of its request', additionalProperties: true },
);

const ResponseStreamEvent = Type.Object(
  {
    type: Type.String({ description: 'The same as the name of the event' }),
    sequence_number: Type.Integer({
      description: 'Counts from 0. The same in every replay, so a client can continue behind it.',
    }),
  },
  {
    $id: 'ResponseStreamEvent',
    description:
      'The last event is `response.completed`, `response.incomplete` (also for a cancelled response) or `response.failed`.',
    additionalProperties: true,
  },
);

/** Shared schemas of these routes. */
export const RESPONSE_SCHEMAS = [Response, ResponseStreamEvent];

export const DeletedResponse = Type.Object({
  id: Type.String(),
  object: Type.Literal('response'),
  deleted: Type.Literal(true),
});

export const InputItemList = Type.Object({
  object: Type.Literal('list'),
  data: Type.Array(AnyFields),
  first_id: Type.Union([Type.String(), Type.Null()]),
  last_id: Type.Union([Type.String(), Type.Null()]),
  has_more: Type.Boolean(),
});
