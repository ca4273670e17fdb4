import { Type } from '@sinclair/typebox';
import { MODEL_NAME } from './patterns.ts';

/** Settings of API keys and tokens. */

const COUNT_BOUNDS = { minimum: 1, maximum: 1_000_000_000 };

/** Limits of one owner. `absent` says what applies without the setting. */
const limits = (absent: string) => ({
  requestsPerMinute: Type.Optional(Type.Integer({ ...COUNT_BOUNDS, description: `Requests per minute; ${absent}` })),
  tokensPerMinute: Type.Optional(
    Type.Integer({ ...COUNT_BOUNDS, description: `Input and output tokens per minute; ${absent}` }),
  ),
  tokensPerDay: Type.Optional(
    Type.Integer({ ...COUNT_BOUNDS, description: `Input and output tokens in 24 hours; ${absent}` }),
  ),
  maxConcurrent: Type.Optional(
    Type.Integer({ ...COUNT_BOUNDS, description: `Answers that may run at the same time; ${absent}` }),
  ),
});

/** Costs that the answers of one owner may have. */
export const Budget = (absent: string) =>
  Type.Object(
    {
      period: Type.Union([Type.Literal('day'), Type.Literal('month')], {
        description: 'Calendar period of the budget, in UTC',
      }),
      amount: Type.Number({
        exclusiveMinimum: 0,
        maximum: 1_000_000,
        description: `USD that answers may cost in a period, above 0 and at most 1000000; ${absent}`,
      }),
    },
    { additionalProperties: false },
  );

const models = (description: string) =>
  Type.Optional(Type.Array(Type.String({ pattern: MODEL_NAME }), { maxItems: 1_000, description }));

/** Limits of each visitor of a key, or of the subject of a token. */
const Visitors = Type.Optional(
  Type.Object(
    { ...limits('only that of the key if absent'), budget: Type.Optional(Budget('only that of the key if absent')) },
    { additionalProperties: false },
  ),
);

const defaults = () => ({
  models: models('Public names of models; all if absent'),
  ...limits('no limit if absent'),
  visitors: Visitors,
});

export const KeyDefaults = Type.Object(
  { ...defaults(), budget: Type.Optional(Budget('no budget if absent')) },
  { additionalProperties: false },
);

/** Limits of each client address of a service without keys and tokens. */
export const Anonymous = Type.Object(limits('no limit if absent'), { additionalProperties: false });

export const ApiKey = Type.Object(
  {
    name: Type.String({
      pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$',
      description: 'Name of the owner; identifies its streams and limits, and stands in logs and metrics',
    }),
    sha256: Type.String({ pattern: '^[0-9A-Fa-f]{64}$', description: 'SHA-256 of the key, in hexadecimal' }),
    models: models('Public names of models that the key may use; as in `keyDefaults` if absent, else all'),
    ...limits('as in `keyDefaults` if absent, else no limit'),
    budget: Type.Optional(Budget('as in `keyDefaults` if absent, else no budget')),
    visitors: Visitors,
    expiresAt: Type.Optional(
      Type.String({
        pattern: '^\\d{4}-\\d{2}-\\d{2}(T[0-9:.]+(Z|[+-]\\d{2}:\\d{2}))?$',
        description: 'Date, or date and time with zone, after which the key is refused',
      }),
    ),
  },
  { additionalProperties: false },
);

export const Jwt = Type.Object(
  {
    jwksUrl: Type.Optional(
      Type.String({ pattern: '^https?://[^\\s]+$', description: 'URL of the key set of the issuer' }),
    ),
    secret: Type.Optional(
      Type.String({ minLength: 32, description: 'Secret shared with the issuer; at least 32 characters' }),
    ),
    issuer: Type.String({ minLength: 1, description: 'Required value of `iss`' }),
    audience: Type.String({ minLength: 1, description: 'Required value of `aud`' }),
    algorithms: Type.Array(
      Type.Union(
        ['HS256', 'HS384', 'HS512', 'RS256', 'RS384', 'RS512', 'PS256', 'ES256', 'ES384', 'EdDSA'].map((one) =>
          Type.Literal(one),
        ),
      ),
      { minItems: 1, description: 'Accepted algorithms: HS… with a secret, all others with a key set' },
    ),
    defaults: Type.Optional(Type.Object(defaults(), { additionalProperties: false })),
  },
  { additionalProperties: false },
);
