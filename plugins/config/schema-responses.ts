import { Type } from '@sinclair/typebox';

/** Settings of stored responses. */

const bytes = (description: string, byDefault: number) =>
  Type.Integer({ description, minimum: 65_536, maximum: 2 ** 40, default: byDefault });

const Webhook = Type.Object(
  {
    url: Type.String({
      pattern: '^https?://[^\\s/?#@]+(/[^\\s#]*)?$',
      description: 'URL to which the end of each background answer is posted; http: only for private addresses',
    }),
    secrets: Type.Array(Type.String({ pattern: '^whsec_[A-Za-z0-9+/]{32,128}={0,2}$' }), {
      minItems: 1,
      maxItems: 8,
      description:
        'Each `whsec_` and 24 to 64 random bytes in base64. Messages are signed with all of them; several only while a secret is replaced',
    }),
    proxy: Type.Optional(
      Type.Union([Type.String({ pattern: '^https?://[^\\s/?#]+/?$' }), Type.Literal(false)], {
        description: 'URL of an HTTP proxy for webhooks, or `false` for none; overrides the section `proxy`',
      }),
    ),
    allowPrivate: Type.Boolean({ default: false, description: 'Allows link-local and metadata addresses' }),
    timeoutMs: Type.Integer({
      minimum: 100,
      maximum: 60_000,
      default: 10_000,
      description: 'Time limit of one delivery',
    }),
    retryMs: Type.Integer({
      minimum: 1_000,
      maximum: 604_800_000,
      default: 86_400_000,
      description: 'Time after the end of an answer in which a delivery that fails is repeated',
    }),
  },
  { additionalProperties: false },
);

export const Responses = Type.Object(
  {
    ttlMs: Type.Integer({
      minimum: 1_000,
      maximum: 2_592_000_000,
      default: 3_600_000,
      description: 'How long a stored response is kept after its answer has ended',
    }),
    maxRequestChars: Type.Integer({
      minimum: 1_024,
      maximum: 16_777_216,
      default: 1_048_576,
      description: 'Longest question that is stored, in UTF-16 code units; a longer one needs `store: false`',
    }),
    maxPerOwner: Type.Integer({
      minimum: 1,
      maximum: 1_000_000,
      default: 10_000,
      description: 'Most stored responses of one owner; the oldest are removed first',
    }),
    maxBytesPerOwner: bytes(
      'Bound of the stored responses of one owner, in bytes: questions and answers in memory, questions in Redis',
      33_554_432,
    ),
    maxTotalBytes: bytes('Without Redis: memory bound of all stored responses, in bytes', 67_108_864),
    webhook: Type.Optional(Webhook),
  },
  { additionalProperties: false, default: {} },
);
