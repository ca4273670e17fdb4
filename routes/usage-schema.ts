import { Type } from '@sinclair/typebox';

/** Schema of usage records (docs/usage.md). No route sends them; the API reference describes them for their readers. */

const COUNT = { minimum: 0 };
const Basis = Type.Union([Type.Literal('counted'), Type.Literal('estimated'), Type.Literal('both')], {
  description: 'Who has counted the tokens: the providers, this service, or both',
});

const Attempt = Type.Object({
  target: Type.Optional(Type.String({ description: '`provider/model`' })),
  outcome: Type.String({ description: '`ok`, `aborted`, `stream_lost`, or the reason of the failure' }),
  basis: Basis,
  inputTokens: Type.Integer(COUNT),
  outputTokens: Type.Integer(COUNT),
  cost: Type.Optional(Type.Number({ ...COUNT, description: 'USD' })),
});

export const UsageRecord = Type.Object(
  {
    usage: Type.Literal(1),
    time: Type.String({ format: 'date-time', description: 'End of the generation' }),
    stream: Type.String({ description: 'Id of the stream; the same record may be there twice' }),
    key: Type.String(),
    visitor: Type.Optional(Type.String({ description: 'Hash of the visitor' })),
    subject: Type.Optional(Type.String({ description: 'Hash of issuer and subject of a token' })),
    model: Type.String(),
    outcome: Type.String({ description: '`ok`, `stopped`, or the code of the error' }),
    finishReason: Type.Optional(Type.String()),
    basis: Basis,
    inputTokens: Type.Integer(COUNT),
    outputTokens: Type.Integer(COUNT),
    estimatedInputTokens: Type.Integer({ ...COUNT, description: 'Part of `inputTokens`' }),
    estimatedOutputTokens: Type.Integer({ ...COUNT, description: 'Part of `outputTokens`' }),
    cachedTokens: Type.Optional(Type.Integer(COUNT)),
    cacheWriteTokens: Type.Optional(Type.Integer(COUNT)),
    reasoningTokens: Type.Optional(Type.Integer(COUNT)),
    cost: Type.Optional(Type.Number({ ...COUNT, description: 'USD; absent if it is unknown' })),
    estimatedCost: Type.Optional(Type.Number({ ...COUNT, description: 'Part of `cost`' })),
    attempts: Type.Array(Attempt, { description: 'Calls of providers, in order' }),
    firstTokenMs: Type.Optional(Type.Number(COUNT)),
    durationMs: Type.Optional(Type.Number(COUNT)),
  },
  { $id: 'UsageRecord', description: 'One line for each ended generation, as `usage.to` says: see docs/usage.md' },
);
