import { Value, ValuePointer } from '@sinclair/typebox/value';
import { findCrossReferenceProblems } from './check.ts';
import { type EnvironmentValues, readEnvironment } from './environment.ts';
import { readConfigFile } from './file.ts';
import { createFileReader, type FileDigests } from './files.ts';
import { describeError } from './messages.ts';
import { originProblems } from './origins.ts';
import { readPriceFile } from './price-file.ts';
import { type Config, ConfigSchema } from './schema.ts';
import { shapeProblems } from './shape.ts';
import { findUnknownVariables, type UnknownVariable } from './unknown-variables.ts';
import { createVariables, type Environment } from './variables.ts';

/** An invalid configuration. `problems` names the settings, never their values. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(`The configuration is not valid:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`);
    this.problems = problems;
  }
}

/** Problems of the sections whose settings the check of names reads. */
const NAMES_DEPEND_ON =
  /^(CONFIG_FILE|providers|models|keys|keyDefaults|jwt|anonymous|corsOrigins|CORS_ORIGINS|proxy|usage|USAGE_(TO|FILE)|responses|RESPONSES_\w+|trustProxy|TRUST_PROXY|ticketSecret|TICKET_SECRET|HTTPS?_PROXY|https?_proxy|\w+_API_KEY|\w+_(BASE_URL|ENDPOINT)|DEFAULT_MODEL)(_FILE)?\b/;

/** The result of reading all sources. */
export interface LoadedConfig {
  /** Undefined if there are problems. */
  readonly config: Config | undefined;
  /** Names of settings with what is wrong, never their values. */
  readonly problems: readonly string[];
  /** Environment variables that look like a setting and are none. */
  readonly unknownVariables: readonly UnknownVariable[];
  /** The files that were read. */
  readonly files: FileDigests;
}

/** Reads the configuration: defaults, overridden by the file of CONFIG_FILE, overridden by the environment. */
export function readConfig(env: Environment): LoadedConfig {
  const problems: string[] = [];
  const files = createFileReader();
  const variables = createVariables(env, files, problems);
  const path = variables.get('CONFIG_FILE');
  const file = path === undefined ? {} : readConfigFile(path, files, variables, problems);
  problems.push(...shapeProblems(ConfigSchema, file));
  // An empty list may be the rest of a list that was meant, and would let everybody in.
  if (isEmptyList(file.keys) && file.jwt === undefined) {
    problems.push('keys: the list is empty, and without keys everybody could ask; add a key, or remove the setting');
  }
  const overlay = readEnvironment(variables, env, providersOf(file), problems);
  for (const [pointer, value] of overlay.values) set(file, pointer, value);

  const config = convertText(Value.Default(ConfigSchema, file));
  problems.push(...schemaProblems(config, overlay, problems));
  problems.push(...originProblems((config as Partial<Config>).corsOrigins));
  const { pricesFile } = config as Partial<Config>;
  const setting = overlay.names.get('/pricesFile') ?? 'pricesFile';
  // A path that is not valid has a problem already.
  if (typeof pricesFile === 'string' && !problems.some((problem) => problem.startsWith(`${setting}:`))) {
    (config as Config).priceTable = readPriceFile(pricesFile, files, setting, problems);
  }
  // Names are checked only if the sections that the check reads are valid.
  if (!problems.some((problem) => NAMES_DEPEND_ON.test(problem))) {
    addDemoProvider(config as Config);
    problems.push(...findCrossReferenceProblems(config as Config));
  }
  return {
    config: problems.length === 0 ? (config as Config) : undefined,
    problems,
    unknownVariables: findUnknownVariables(env, variables.used),
    files: files.digests,
  };
}

/**
 * Returns the configuration.
 * @throws ConfigError with all problems
 */
export function loadConfig(env: Environment): Config {
  const { config, problems } = readConfig(env);
  if (config === undefined) throw new ConfigError(problems);
  return config;
}

/** Converts text from the environment to integers and booleans. `3e5` and `1.9` are not valid integers. */
function convertText(config: unknown): unknown {
  for (const { path, schema, value } of [...Value.Errors(ConfigSchema, config)]) {
    if (schema.type === 'integer' && typeof value === 'string' && /^\d{1,15}$/.test(value)) {
      ValuePointer.Set(config, path, Number(value));
    }
    if (schema.type === 'boolean' && (value === 'true' || value === 'false')) {
      ValuePointer.Set(config, path, value === 'true');
    }
  }
  return config;
}

/** Adds the demo provider if there is no other, so that the first run needs no key. */
function addDemoProvider(config: Config): void {
  if (Object.keys(config.providers).length === 0) {
    config.providers.demo = { type: 'demo', models: ['demo'] };
    config.defaultModel ??= 'demo/demo';
  }
}

function isEmptyList(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0;
}

/** Returns the providers of a file that has not been checked. */
function providersOf({ providers }: Record<string, unknown>): Record<string, { type?: unknown }> {
  if (typeof providers !== 'object' || providers === null) return {};
  return Object.fromEntries(
    Object.entries(providers).filter(([, entry]) => typeof entry === 'object' && entry !== null),
  );
}

function set(target: Record<string, unknown>, pointer: string, value: unknown): void {
  const keys = pointer.slice(1).split('/');
  const last = keys.pop() as string;
  let place = target;
  for (const key of keys) {
    if (typeof place[key] !== 'object' || place[key] === null) place[key] = {};
    place = place[key] as Record<string, unknown>;
  }
  place[last] = value;
}

/** Returns one problem for each setting that has none yet. */
function schemaProblems(config: unknown, { names }: EnvironmentValues, known: readonly string[]): string[] {
  const seen = new Set(known.map((problem) => problem.split(':', 1)[0]));
  const found: string[] = [];
  for (const error of Value.Errors(ConfigSchema, config)) {
    const { path } = error;
    const name = names.get(path) ?? names.get(path.replace(/\/\d+$/, '')) ?? path.slice(1).replaceAll('/', '.');
    if (!seen.has(name)) found.push(`${name}: ${describeError(error)}`);
    seen.add(name);
  }
  return found;
}
