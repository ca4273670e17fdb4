import { PROVIDER_TYPES } from '../../providers/registry.ts';
import { clean, type Environment, type Variables } from './variables.ts';

/** Reads a partial configuration from the environment. Lists are split here; `load.ts` converts other text. */

const SETTINGS: Readonly<Record<string, string>> = {
  HOST: '/host',
  PORT: '/port',
  LISTEN_SOCKETS: '/listenSockets',
  BASE_PATH: '/basePath',
  LOG_LEVEL: '/logLevel',
  PLAYGROUND: '/playground',
  DEFAULT_MODEL: '/defaultModel',
  PRICES_FILE: '/pricesFile',
  TICKET_SECRET: '/ticketSecret',
  DRAIN_MS: '/drainMs',
  DRAIN_HANDOVER_MS: '/drainHandoverMs',
  REDIS_URL: '/redis/url',
  REDIS_SENTINEL_PASSWORD: '/redis/sentinelPassword',
  REDIS_PREFIX: '/redis/prefix',
  REDIS_REQUIRED: '/redis/required',
  RESPONSES_TTL_MS: '/responses/ttlMs',
  RESPONSES_WEBHOOK_URL: '/responses/webhook/url',
  USAGE_TO: '/usage/to',
  USAGE_FILE: '/usage/file',
  MAX_GENERATIONS: '/streams/maxGenerations',
  STREAM_HIGH_WATER_MARK: '/streams/highWaterMark',
  STREAM_GRACE_MS: '/streams/graceMs',
  STREAM_TTL_MS: '/streams/ttlMs',
  STREAM_FLUSH_MS: '/streams/flushMs',
  STREAM_MAX_FLUSH_MS: '/streams/maxFlushMs',
  STREAM_HEARTBEAT_MS: '/streams/heartbeatMs',
  STREAM_MAX_CONNECTION_MS: '/streams/maxConnectionMs',
  MAX_EVENT_LOOP_DELAY_MS: '/limits/maxEventLoopDelayMs',
  STREAM_MAX_CHARS: '/streams/maxChars',
};

/** Variables whose text has a form of its own. */
const PARSED_SETTINGS: Readonly<Record<string, { pointer: string; parse(text: string): unknown }>> = {
  CORS_ORIGINS: { pointer: '/corsOrigins', parse: splitList },
  RESPONSES_WEBHOOK_SECRET: { pointer: '/responses/webhook/secrets', parse: splitList },
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
 * Reads the settings that the environment has.
 * @param inFile the providers of the file; a variable moves those that have the name of their type
 * @param problems is extended with lists of keys that are empty
 */
export function readEnvironment(
  variables: Variables,
  env: Environment,
  inFile: Readonly<Record<string, { readonly type?: unknown }>>,
  problems: string[],
): EnvironmentValues {
  const values = new Map<string, unknown>();
  const names = new Map<string, string>();
  const put = (pointer: string, name: string, value: unknown) => {
    values.set(pointer, value);
    names.set(pointer, variables.sourceOf(name));
  };
  for (const [name, pointer] of Object.entries(SETTINGS)) {
    const text = variables.get(name);
    if (text !== undefined) put(pointer, name, text);
  }
  for (const [standard, { pointer, parse }] of Object.entries(PARSED_SETTINGS)) {
    const lowerCase = standard.toLowerCase();
    const name = pointer.startsWith('/proxy/') && env[lowerCase] ? lowerCase : standard;
    const text = variables.get(name);
    if (text !== undefined) put(pointer, name, parse(text));
  }
  for (const [type, { apiKeyEnv, baseUrlEnv = [] }] of Object.entries(PROVIDER_TYPES)) {
    const movedBy = baseUrlEnv.find((name) => variables.get(name) !== undefined);
    const address = movedBy && variables.get(movedBy);
    if (movedBy && inFile[type]?.type === type) put(`/providers/${type}/baseUrl`, movedBy, address);
    const enabledBy = apiKeyEnv ?? baseUrlEnv[0];
    const enabling = enabledBy && variables.get(enabledBy);
    if (enabledBy === undefined || enabling === undefined) continue;
    put(`/providers/${type}/type`, enabledBy, type);
    if (apiKeyEnv) put(`/providers/${type}/apiKeys`, apiKeyEnv, splitKeys(apiKeyEnv, enabling));
    if (movedBy) put(`/providers/${type}/baseUrl`, movedBy, address);
  }
  const tracingEnabledBy = TRACING.find((name) => env[name]);
  if (tracingEnabledBy && env.OTEL_SDK_DISABLED !== 'true' && env.OTEL_TRACES_EXPORTER !== 'none')
    put('/tracing', tracingEnabledBy, true);
  return { values, names };

  /** A provider without a key would be asked without one. */
  function splitKeys(name: string, text: string): string[] {
    const keys = splitList(text);
    if (keys.length === 0) problems.push(`${variables.sourceOf(name)}: contains no key`);
    return keys;
  }
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

/** Splits at commas and line breaks. Items may be in quotes. */
function splitList(text: string): string[] {
  return text
    .split(/[,\r\n]/)
    .map(clean)
    .filter((item) => item !== '');
}
