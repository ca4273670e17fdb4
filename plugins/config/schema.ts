import { type Static, Type } from '@sinclair/typebox';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import { MODEL_NAME } from './patterns.ts';
import { ApiKey, Jwt } from './schema-auth.ts';
import { Redis } from './schema-redis.ts';

/** Every setting, its bounds and its default. The one place that knows them. */

const CLOSED = { additionalProperties: false, default: {} };
const ms = (description: string, byDefault: number, minimum = 1, maximum = 86_400_000) =>
  Type.Integer({ description, minimum, maximum, default: byDefault });
const bytes = (description: string, byDefault: number, minimum: number, maximum = 2 ** 40) =>
  Type.Integer({ description, minimum, maximum, default: byDefault });

const Streams = Type.Object(
  {
    highWaterMark: bytes(
      'How far the upstream may run ahead of the fastest reader, and what one response may buffer',
      16_384,
      1,
    ),
    flushMs: ms('Deltas that follow one another faster than this go out as one event', 10, 0, 1_000),
    maxFlushMs: ms('The same on a full core: the busier, the nearer to this; at least `flushMs`', 80, 0, 1_000),
    graceMs: ms('How long an answer goes on after its last reader has left; 0 ends it at once', 15_000, 0),
    ttlMs: ms('How long an ended answer stays readable', 300_000),
    stallMs: ms('How long a reader may take nothing before it is cut off; it can resume', 30_000),
    // An answer is joined to one string at its end, and V8's longest has some 2^29 units.
    maxChars: bytes('Longest answer, in UTF-16 units', 8_388_608, 1_024, 2 ** 28),
    maxTotalBytes: bytes('Bound of all kept answers together', 134_217_728, 65_536),
    heartbeatMs: ms('Silence after which a comment keeps the connection open', 15_000),
    maxGenerations: Type.Integer({
      description: 'Answers that may run at once',
      minimum: 1,
      maximum: 1_000_000,
      default: 10_000,
    }),
  },
  CLOSED,
);

const Deadlines = Type.Object(
  {
    connectMs: ms('Until the upstream accepts the connection', 3_000),
    headersMs: ms('Until its response begins', 30_000),
    firstTokenMs: ms('Until the first part of the answer', 60_000),
    idleMs: ms('Longest silence between two parts', 30_000),
    totalMs: ms('Longest answer', 600_000),
  },
  CLOSED,
);

const Limits = Type.Object(
  {
    maxEventLoopDelayMs: ms(
      'Mean delay of the event loop from which new questions are refused; 0: never at all',
      50,
      0,
    ),
    messages: Type.Integer({
      description: 'Most messages of one question',
      minimum: 1,
      maximum: 10_000,
      default: 1_000,
    }),
    expectedReplicas: Type.Integer({
      minimum: 1,
      maximum: 1_000,
      default: 1,
      description: 'With Redis: number of replicas that share the limits of a key while Redis is unavailable',
    }),
    chatBodyBytes: bytes('Largest body of /v1 and /ui, where images may stand', 16_777_216, 1_024, 2 ** 30),
  },
  CLOSED,
);

const ProviderEntry = Type.Object(
  {
    type: Type.Union(
      Object.keys(PROVIDER_TYPES).map((name) => Type.Literal(name)),
      { description: 'Which adapter speaks to it' },
    ),
    baseUrl: Type.Optional(
      Type.String({ pattern: '^https?://[^\\s/?#@]+(/[^\\s?#]*)?$', description: 'Everything before the API path' }),
    ),
    apiKeys: Type.Optional(
      Type.Array(Type.String({ minLength: 1, pattern: '^[\\x21-\\x7e]+$' }), {
        maxItems: 100,
        description: 'The one with the fewest calls is used; one that is refused or limited rests',
      }),
    ),
    apiVersion: Type.Optional(
      Type.String({
        pattern: '^[0-9A-Za-z.-]{1,40}$',
        description: "Azure's `api-version`, where its address needs one",
      }),
    ),
    allowPrivate: Type.Optional(
      Type.Boolean({ description: 'Whether it may live at a link-local or metadata address' }),
    ),
    maxConcurrent: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 1_000_000, description: 'Calls that may run at once' }),
    ),
    models: Type.Optional(
      Type.Union([Type.Literal('*'), Type.Array(Type.String({ pattern: MODEL_NAME }), { maxItems: 1_000 })], {
        description: 'Upstream models that may be asked as `provider/model`; `*` opens all',
      }),
    ),
  },
  { additionalProperties: false },
);

const Target = Type.Object(
  {
    provider: Type.String({ minLength: 1, description: 'A name under `providers`' }),
    model: Type.String({ pattern: MODEL_NAME, description: "The provider's own name of the model" }),
  },
  { additionalProperties: false },
);

const overrideMs = (name: string) =>
  Type.Optional(Type.Integer({ minimum: 1, maximum: 86_400_000, description: `In place of \`deadlines.${name}\`` }));

const ModelRoute = Type.Object(
  {
    name: Type.String({ pattern: MODEL_NAME, description: 'The public name' }),
    targets: Type.Array(Target, { minItems: 1, maxItems: 20, description: 'Asked in this order' }),
    firstTokenMs: overrideMs('firstTokenMs'),
    idleMs: overrideMs('idleMs'),
    totalMs: overrideMs('totalMs'),
    onMidStreamFailure: Type.Optional(
      Type.Union([Type.Literal('error'), Type.Literal('continue')], {
        description: 'When a target fails in the middle: an error, or the next target goes on with the text',
      }),
    ),
    continuePrompt: Type.Optional(
      Type.String({ minLength: 1, maxLength: 10_000, description: 'What the next target is told' }),
    ),
  },
  { additionalProperties: false },
);

export const ConfigSchema = Type.Object(
  {
    host: Type.String({ minLength: 1, default: '127.0.0.1', description: 'Address to listen on' }),
    port: Type.Integer({
      minimum: 0,
      maximum: 65_535,
      default: 3_000,
      description: 'Port to listen on; 0 picks a free one',
    }),
    listenSockets: Type.Integer({
      minimum: 1,
      maximum: 256,
      default: 32,
      description: 'Sockets that listen on the port, where the platform can share one',
    }),
    basePath: Type.String({
      pattern: '^(/[A-Za-z0-9._~-]+)*$',
      default: '',
      description: 'What the gateway puts before every path, such as `/sluice`',
    }),
    trustProxy: Type.Union(
      [Type.Boolean(), Type.Integer({ minimum: 0, maximum: 100 }), Type.Array(Type.String({ minLength: 1 }))],
      {
        default: false,
        description: 'Gateway hops in front, or the list of their addresses',
      },
    ),
    logLevel: Type.Union(
      ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'].map((level) => Type.Literal(level)),
      { default: 'info', description: 'Least severe line that is logged' },
    ),
    playground: Type.Boolean({ default: true, description: 'Whether there are a page at / and a reference at /docs' }),
    corsOrigins: Type.Array(
      Type.String({ pattern: '^(\\*|https?://[^\\s/]+)$', description: 'such as https://app.example, or *' }),
      {
        default: [],
        description: 'Origins whose pages may call; `*` for all',
      },
    ),
    defaultModel: Type.Optional(
      Type.String({ pattern: MODEL_NAME, description: 'Answers when a question names no model' }),
    ),
    tracing: Type.Boolean({
      default: false,
      description: 'Whether spans are sent by OTLP, as the OTEL_* variables say',
    }),
    drainMs: ms('How long running answers may go on after SIGTERM', 25_000, 0),
    drainHandoverMs: ms(
      'With Redis: how long after that answers are finished for readers on other replicas',
      30_000,
      0,
    ),
    redis: Type.Optional(Redis),
    providers: Type.Record(Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' }), ProviderEntry, {
      additionalProperties: false,
      default: {},
    }),
    keys: Type.Array(ApiKey, { default: [], maxItems: 10_000 }),
    jwt: Type.Optional(Jwt),
    ticketSecret: Type.Optional(
      Type.String({ minLength: 32, description: 'Signs tickets; the same on every replica; at least 32 characters' }),
    ),
    models: Type.Array(ModelRoute, { default: [], maxItems: 1_000 }),
    streams: Streams,
    deadlines: Deadlines,
    limits: Limits,
  },
  { additionalProperties: false },
);

export type Config = Static<typeof ConfigSchema>;
