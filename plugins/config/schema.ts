import { type Static, Type } from '@sinclair/typebox';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import { MODEL_NAME } from './patterns.ts';
import type { PriceTable } from './price-file.ts';
import { Anonymous, ApiKey, Jwt, KeyDefaults } from './schema-auth.ts';
import { Redis } from './schema-redis.ts';
import { Responses } from './schema-responses.ts';
import { UsageRecords } from './schema-usage.ts';

/** The schema of all settings, with bounds and defaults. */

const CLOSED = { additionalProperties: false, default: {} };
const ms = (description: string, byDefault: number, minimum = 1, maximum = 86_400_000) =>
  Type.Integer({ description, minimum, maximum, default: byDefault });
const bytes = (description: string, byDefault: number, minimum: number, maximum = 2 ** 40) =>
  Type.Integer({ description, minimum, maximum, default: byDefault });

const Streams = Type.Object(
  {
    highWaterMark: bytes(
      'UTF-16 code units that the upstream may be ahead of the fastest reader, and bytes that one response may buffer',
      16_384,
      1,
    ),
    flushMs: ms('Deltas that arrive faster than this are sent as one event', 10, 0, 1_000),
    maxFlushMs: ms(
      'Read interval of upstreams at which the core counts as full; it starts at `flushMs` and grows with the load, up to 50 ms from 25 % CPU on',
      250,
      0,
      1_000,
    ),
    graceMs: ms('How long an answer continues after its last reader has left; 0 ends it immediately', 15_000, 0),
    ttlMs: ms('How long an ended answer stays readable', 300_000),
    stallMs: ms(
      'How long a client may read nothing of a response before it is disconnected; readers can resume',
      30_000,
    ),
    // An answer becomes one string at its end. The longest string of V8 has about 2^29 units.
    maxChars: bytes('Longest answer, in UTF-16 code units', 8_388_608, 1_024, 2 ** 28),
    maxTotalBytes: bytes('Memory bound of all stored answers, in bytes', 134_217_728, 65_536),
    heartbeatMs: ms('Silence after which a comment is sent to keep the connection open', 15_000),
    maxConnectionMs: ms(
      'How long a response to a client that reconnects may last, below the time that a gateway allows; its client continues on a new connection. 0 for no limit, else at least 1000',
      540_000,
      0,
    ),
    maxGenerations: Type.Integer({
      description: 'Answers that may run at the same time; lowered to what the limit of open files allows',
      minimum: 1,
      maximum: 1_000_000,
      default: 10_000,
    }),
  },
  CLOSED,
);

const Deadlines = Type.Object(
  {
    connectMs: ms('Time limit until the upstream accepts the connection', 3_000),
    headersMs: ms('Time limit until the response of the upstream begins', 30_000),
    firstTokenMs: ms('Time limit until the first part of the answer', 60_000),
    idleMs: ms('Longest silence between two parts of the answer', 30_000),
    thinkingMs: ms('Longest silence while the provider reports that the model is thinking', 300_000),
    totalMs: ms('Longest time of an answer', 600_000),
  },
  CLOSED,
);

const Limits = Type.Object(
  {
    maxEventLoopDelayMs: ms(
      'Event-loop delay, for three seconds on end, from which new questions are refused; 0 never refuses',
      250,
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
    chatBodyBytes: bytes('Largest body of /v1, /ui and /agui, which may contain images', 16_777_216, 1_024, 2 ** 30),
    textChars: bytes('Most characters of text in one body, without base64 `data:` URLs', 4_194_304, 1_024, 2 ** 28),
    promptBytes: Type.Optional(
      Type.Integer({
        description:
          'Memory bound of all bodies that are received and questions that are answered; by default an eighth of the heap',
        minimum: 65_536,
        maximum: 2 ** 40,
      }),
    ),
    promptBytesPerOwner: Type.Optional(
      Type.Integer({
        description: 'The same for one owner; by default half of it. Not applied without keys',
        minimum: 65_536,
        maximum: 2 ** 40,
      }),
    ),
    outputBytes: Type.Optional(
      Type.Integer({
        description:
          'Memory bound of output that readers have not read: each counts as twice `highWaterMark`; by default a quarter of the heap',
        minimum: 65_536,
        maximum: 2 ** 40,
      }),
    ),
    readersPerStream: Type.Integer({
      description: 'Most readers of one stream, on each replica',
      minimum: 1,
      maximum: 1_000_000,
      default: 1_000,
    }),
    readersPerOwner: Type.Integer({
      description: 'Most readers of one owner, on each replica. Not applied without keys',
      minimum: 1,
      maximum: 1_000_000,
      default: 5_000,
    }),
    unauthenticatedPerMinute: Type.Integer({
      description:
        'Failed authentications and requests to public paths of one client address per minute, on each replica; 0 for no limit',
      minimum: 0,
      maximum: 1_000_000_000,
      default: 600,
    }),
  },
  CLOSED,
);

const OptionNames = (description: string) =>
  Type.Optional(Type.Array(Type.String({ pattern: '^[A-Za-z_][A-Za-z0-9_]{0,63}$' }), { maxItems: 100, description }));

/** Changes to the options of requests, by their names in Chat Completions. */
const requestSettings = {
  defaults: Type.Optional(
    Type.Record(Type.String(), Type.Unknown(), {
      description: 'Options of requests that do not set them, by their names in Chat Completions',
    }),
  ),
  drop: OptionNames('Options that are removed from requests'),
  forward: OptionNames('Options that reach the provider unchanged, also if its API is not known to have them'),
};

const proxyUrl = (description: string) => Type.String({ pattern: '^https?://[^\\s/?#]+/?$', description });

const ProxySettings = Type.Object(
  {
    https: Type.Optional(proxyUrl('URL of the HTTP proxy to providers with `https:` addresses')),
    http: Type.Optional(proxyUrl('URL of the HTTP proxy to providers with `http:` addresses')),
    except: Type.Array(Type.String({ minLength: 1, maxLength: 300 }), {
      default: [],
      maxItems: 1_000,
      description: 'Hosts that are reached directly: names with their subdomains, addresses, CIDR ranges, or `*`',
    }),
  },
  { additionalProperties: false },
);

const ProviderEntry = Type.Object(
  {
    type: Type.Union(
      Object.keys(PROVIDER_TYPES).map((name) => Type.Literal(name)),
      { description: 'Adapter for the API of the provider' },
    ),
    baseUrl: Type.Optional(
      Type.String({ pattern: '^https?://[^\\s/?#@]+(/[^\\s?#]*)?$', description: 'URL without the API path' }),
    ),
    apiKeys: Type.Optional(
      Type.Array(Type.String({ minLength: 1, pattern: '^[\\x21\\x23-\\x26\\x28-\\x7e]+$' }), {
        maxItems: 100,
        description: 'The key with the fewest calls is used; a refused or rate-limited key gets a cooldown',
      }),
    ),
    apiVersion: Type.Optional(
      Type.String({
        pattern: '^[0-9A-Za-z.-]{1,40}$',
        description: "Azure's `api-version`, if its address needs one",
      }),
    ),
    api: Type.Optional(
      Type.Union([Type.Literal('responses'), Type.Literal('chat')], {
        description:
          "OpenAI's API that the provider speaks: `responses` is the default of `openai`, `chat` of all others",
      }),
    ),
    headers: Type.Optional(
      Type.Record(
        Type.String({ pattern: '^[A-Za-z0-9-]{1,128}$' }),
        Type.String({ pattern: '^[\\x20-\\x7e]{0,4096}$' }),
        { additionalProperties: false, description: 'Headers of every call' },
      ),
    ),
    sampling: Type.Optional(
      Type.Union([Type.Literal('both'), Type.Literal('one'), Type.Literal('none')], {
        description:
          'Only for Anthropic: how many of `temperature` and `top_p` the models accept; without it, the name of the model decides',
      }),
    ),
    ...requestSettings,
    allowPrivate: Type.Optional(
      Type.Boolean({
        description: 'Allows link-local and metadata addresses, and private ones in image and file URLs of questions',
      }),
    ),
    proxy: Type.Optional(
      Type.Union([proxyUrl('URL of an HTTP proxy for this provider'), Type.Literal(false)], {
        description: 'URL of an HTTP proxy for this provider, or `false` for none; overrides the section `proxy`',
      }),
    ),
    maxConcurrent: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 1_000_000, description: 'Calls that may run at the same time' }),
    ),
    models: Type.Optional(
      Type.Union([Type.Literal('*'), Type.Array(Type.String({ pattern: MODEL_NAME }), { maxItems: 1_000 })], {
        description: 'Upstream models that may be used as `provider/model`; `*` allows all',
      }),
    ),
  },
  { additionalProperties: false },
);

const usd = (description: string) => Type.Optional(Type.Number({ minimum: 0, maximum: 1_000_000, description }));

const Price = (description: string) =>
  Type.Optional(
    Type.Object(
      {
        input: usd('USD per million input tokens'),
        output: usd('USD per million output tokens'),
        cached: usd('USD per million input tokens that were read from a cache; as `input` if absent'),
        cacheWrite: usd('USD per million input tokens that were written to a cache; as `input` if absent'),
        reasoning: usd('USD per million reasoning tokens; as `output` if absent'),
      },
      { additionalProperties: false, description },
    ),
  );

const Target = Type.Object(
  {
    provider: Type.String({ minLength: 1, description: 'A name under `providers`' }),
    model: Type.String({ pattern: MODEL_NAME, description: "The provider's own name of the model" }),
    price: Price('Overrides the price of the model for this target'),
  },
  { additionalProperties: false },
);

const overrideMs = (name: string) =>
  Type.Optional(Type.Integer({ minimum: 1, maximum: 86_400_000, description: `Overrides \`deadlines.${name}\`` }));

const ModelRoute = Type.Object(
  {
    name: Type.String({ pattern: MODEL_NAME, description: 'The public name' }),
    targets: Type.Array(Target, { minItems: 1, maxItems: 20, description: 'Tried in this order' }),
    firstTokenMs: overrideMs('firstTokenMs'),
    idleMs: overrideMs('idleMs'),
    thinkingMs: overrideMs('thinkingMs'),
    totalMs: overrideMs('totalMs'),
    price: Price('Price of all targets; overrides the price file'),
    ...requestSettings,
    onMidStreamFailure: Type.Optional(
      Type.Union([Type.Literal('error'), Type.Literal('continue')], {
        description: 'If a target fails in the middle of an answer: an error, or the next target continues the text',
      }),
    ),
    continuePrompt: Type.Optional(
      Type.String({ minLength: 1, maxLength: 10_000, description: 'Instruction for the target that continues' }),
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
      description: 'Sockets that listen on the port, if the platform can share a port; fewer below 2,048 open files',
    }),
    basePath: Type.String({
      pattern: '^(/[A-Za-z0-9._~-]+)*$',
      default: '',
      description: 'Prefix of every path, such as `/sluice`',
    }),
    trustProxy: Type.Union(
      [Type.Boolean(), Type.Integer({ minimum: 0, maximum: 100 }), Type.Array(Type.String({ minLength: 1 }))],
      {
        default: false,
        description: 'Number of trusted gateway hops, or a list of their addresses',
      },
    ),
    logLevel: Type.Union(
      ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'].map((level) => Type.Literal(level)),
      { default: 'info', description: 'Least severe level that is logged' },
    ),
    playground: Type.Boolean({
      default: true,
      description: 'Serves the playground at / and the API reference at /docs',
    }),
    corsOrigins: Type.Array(
      Type.String({ pattern: '^\\S+$', description: 'for example https://app.example, tauri://localhost, or *' }),
      {
        default: [],
        description: 'Origins whose pages may call, as browsers send them; `*` for all',
      },
    ),
    defaultModel: Type.Optional(
      Type.String({ pattern: MODEL_NAME, description: 'Model for questions that name none' }),
    ),
    tracing: Type.Boolean({
      default: false,
      description: 'Exports spans by OTLP, as set by the OTEL_* variables',
    }),
    drainMs: ms('How long running answers may continue after SIGTERM', 25_000, 0),
    drainHandoverMs: ms('With Redis: how much longer answers continue for readers on other replicas', 30_000, 0),
    redis: Type.Optional(Redis),
    usage: UsageRecords,
    responses: Responses,
    proxy: Type.Optional(ProxySettings),
    providers: Type.Record(Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' }), ProviderEntry, {
      additionalProperties: false,
      default: {},
    }),
    keys: Type.Array(ApiKey, { default: [], maxItems: 10_000 }),
    keyDefaults: Type.Optional(KeyDefaults),
    jwt: Type.Optional(Jwt),
    anonymous: Type.Optional(Anonymous),
    ticketSecret: Type.Optional(
      Type.String({
        minLength: 32,
        description: 'Secret that signs tickets; the same on every replica; at least 32 characters',
      }),
    ),
    models: Type.Array(ModelRoute, { default: [], maxItems: 1_000 }),
    pricesFile: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 4_096,
        description: "File of prices in the format of LiteLLM's `model_prices_and_context_window.json`",
      }),
    ),
    streams: Streams,
    deadlines: Deadlines,
    limits: Limits,
  },
  { additionalProperties: false },
);

export type Config = Static<typeof ConfigSchema> & {
  /** The prices of `pricesFile`. */
  priceTable?: PriceTable | undefined;
};
