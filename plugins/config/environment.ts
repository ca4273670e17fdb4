import { PROVIDER_TYPES } from '../../providers/registry.ts';

/** Reads a partial configuration from the environment. Lists are split here; `load.ts` converts other text. */

export type Environment = Readonly<Record<string, string | undefined>>;

const SETTINGS: Readonly<Record<string, string>> = {
  HOST: '/host',
  PORT: '/port',
  LISTEN_SOCKETS: '/listenSockets',
  BASE_PATH: '/basePath',
  LOG_LEVEL: '/logLevel',
  PLAYGROUND: '/playground',
  DEFAULT_MODEL: '/defaultModel',
  TICKET_SECRET: '/ticketSecret',
  DRAIN_MS: '/drainMs',
  DRAIN_HANDOVER_MS: '/drainHandoverMs',
  REDIS_URL: '/redis/url',
  REDIS_PREFIX: '/redis/prefix',
  REDIS_REQUIRED: '/redis/required',
  MAX_GENERATIONS: '/streams/maxGenerations',
  STREAM_HIGH_WATER_MARK: '/streams/highWaterMark',
  STREAM_GRACE_MS: '/streams/graceMs',
  STREAM_TTL_MS: '/streams/ttlMs',
  STREAM_FLUSH_MS: '/streams/flushMs',
  STREAM_MAX_FLUSH_MS: '/streams/maxFlushMs',
  STREAM_HEARTBEAT_MS: '/streams/heartbeatMs',
  MAX_EVENT_LOOP_DELAY_MS: '/limits/maxEventLoopDelayMs',
  STREAM_MAX_CHARS: '/streams/maxChars',
};

/** Variables whose text has a form of its own. */
const PARSED_SETTINGS: Readonly<Record<string, { pointer: string; parse(text: string): unknown }>> = {
  CORS_ORIGINS: { pointer: '/corsOrigins', parse: splitList },
  TRUST_PROXY: { pointer: '/trustProxy', parse: parseTrustProxy },
  HTTPS_PROXY: { pointer: '/proxy/https', parse: parseProxyUrl },
  HTTP_PROXY: { pointer: '/proxy/http', parse: parseProxyUrl },
  NO_PROXY: { pointer: '/proxy/except', parse: (text) => text.split(/[\s,]+/).filter((item) => item !== '') },
};

/** Returns the environment variable of each setting, by JSON pointer. */
export function environmentNames(): Map<string, string> {
  const parsed = Object.entries(PARSED_SETTINGS).map(([name, { pointer }]): [string, string] => [pointer, name]);
  return new Map([...Object.entries(SETTINGS).map(([name, pointer]): [string, string] => [pointer, name]), ...parsed]);
}

export interface EnvironmentValues {
  readonly values: ReadonlyMap<string, unknown>;
  /** Variable of each value, by JSON pointer; for messages. */
  readonly names: ReadonlyMap<string, string>;
}

/**
 * Reads the settings that the environment has. Empty variables count as unset, because compose files and charts leave
 * them empty.
 * @param inFile the providers of the file; a variable moves those that have the name of their type
 */
export function readEnvironment(
  env: Environment,
  inFile: Readonly<Record<string, { readonly type?: unknown }>> = {},
): EnvironmentValues {
  const values = new Map<string, unknown>();
  const names = new Map<string, string>();
  const put = (pointer: string, name: string, value: unknown) => {
    values.set(pointer, value);
    names.set(pointer, name);
  };
  for (const [name, pointer] of Object.entries(SETTINGS)) if (env[name]) put(pointer, name, env[name].trim());
  for (const [standard, { pointer, parse }] of Object.entries(PARSED_SETTINGS)) {
    const lowerCase = standard.toLowerCase();
    const name = pointer.startsWith('/proxy/') && env[lowerCase] ? lowerCase : standard;
    const text = env[name];
    if (text) put(pointer, name, parse(text.trim()));
  }
  for (const [type, { apiKeyEnv, baseUrlEnv = [] }] of Object.entries(PROVIDER_TYPES)) {
    const enabledBy = apiKeyEnv ?? baseUrlEnv[0];
    const movedBy = baseUrlEnv.find((name) => env[name]);
    const address = movedBy && env[movedBy]?.trim();
    if (movedBy && inFile[type]?.type === type) put(`/providers/${type}/baseUrl`, movedBy, address);
    if (enabledBy === undefined || !env[enabledBy]) continue;
    put(`/providers/${type}/type`, enabledBy, type);
    if (apiKeyEnv && env[apiKeyEnv]) put(`/providers/${type}/apiKeys`, apiKeyEnv, splitList(env[apiKeyEnv]));
    if (movedBy) put(`/providers/${type}/baseUrl`, movedBy, address);
  }
  const tracingEnabledBy = TRACING.find((name) => env[name]);
  if (tracingEnabledBy && env.OTEL_SDK_DISABLED !== 'true' && env.OTEL_TRACES_EXPORTER !== 'none')
    put('/tracing', tracingEnabledBy, true);
  return { values, names };
}

/** Standard variables that switch tracing on. The OpenTelemetry SDK reads their values itself. */
const TRACING = ['OTEL_EXPORTER_OTLP_ENDPOINT', 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT', 'OTEL_TRACES_EXPORTER'];

/** Parses a number of hops, a boolean, or a list of addresses. */
function parseTrustProxy(text: string): unknown {
  if (/^\d+$/.test(text)) return Number(text);
  return text === 'true' || text === 'false' ? text === 'true' : splitList(text);
}

/** Adds the scheme, which other programs do not require. */
function parseProxyUrl(text: string): string {
  return text.includes('://') ? text : `http://${text}`;
}

function splitList(text: string): string[] {
  return text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');
}
