import { PROVIDER_TYPES } from '../../providers/registry.ts';

/** Reads a partial configuration from the environment. Values stay text; `load.ts` converts them by the schema. */

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

const LISTS: Readonly<Record<string, (text: string) => unknown>> = {
  CORS_ORIGINS: list,
  TRUST_PROXY: (text) =>
    /^\d+$/.test(text) ? Number(text) : text === 'true' || text === 'false' ? text === 'true' : list(text),
};

const LIST_PATHS: Readonly<Record<string, string>> = { CORS_ORIGINS: '/corsOrigins', TRUST_PROXY: '/trustProxy' };

/** Returns the environment variable of each setting, by JSON pointer. */
export function environmentNames(): Map<string, string> {
  return new Map([...Object.entries(SETTINGS), ...Object.entries(LIST_PATHS)].map(([name, path]) => [path, name]));
}

export interface EnvironmentValues {
  readonly values: ReadonlyMap<string, unknown>;
  /** Variable of each value, by JSON pointer; for messages. */
  readonly names: ReadonlyMap<string, string>;
}

/** Empty variables count as unset, because compose files and charts leave them empty. */
export function readEnvironment(env: Environment): EnvironmentValues {
  const values = new Map<string, unknown>();
  const names = new Map<string, string>();
  const put = (pointer: string, name: string, value: unknown) => {
    values.set(pointer, value);
    names.set(pointer, name);
  };
  for (const [name, pointer] of Object.entries(SETTINGS)) if (env[name]) put(pointer, name, env[name].trim());
  for (const [name, parse] of Object.entries(LISTS)) {
    const text = env[name];
    if (text) put(LIST_PATHS[name] as string, name, parse(text.trim()));
  }
  for (const [type, { apiKeyEnv, baseUrlEnv }] of Object.entries(PROVIDER_TYPES)) {
    const switchedBy = apiKeyEnv ?? baseUrlEnv;
    if (switchedBy === undefined || !env[switchedBy]) continue;
    put(`/providers/${type}/type`, switchedBy, type);
    if (apiKeyEnv && env[apiKeyEnv]) put(`/providers/${type}/apiKeys`, apiKeyEnv, list(env[apiKeyEnv]));
    if (baseUrlEnv && env[baseUrlEnv]) put(`/providers/${type}/baseUrl`, baseUrlEnv, env[baseUrlEnv].trim());
  }
  const tracedBy = TRACING.find((name) => env[name]);
  if (tracedBy && env.OTEL_SDK_DISABLED !== 'true' && env.OTEL_TRACES_EXPORTER !== 'none')
    put('/tracing', tracedBy, true);
  return { values, names };
}

/** Standard variables that switch tracing on. The OpenTelemetry SDK reads their values itself. */
const TRACING = ['OTEL_EXPORTER_OTLP_ENDPOINT', 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT', 'OTEL_TRACES_EXPORTER'];

function list(text: string): string[] {
  return text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');
}
