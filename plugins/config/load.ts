import { Value, type ValueError, ValuePointer } from '@sinclair/typebox/value';
import { findCrossReferenceProblems } from './check.ts';
import { type Environment, type EnvironmentValues, readEnvironment } from './environment.ts';
import { readConfigFile } from './file.ts';
import { type Config, ConfigSchema } from './schema.ts';

/** An invalid configuration. `problems` names the settings, never their values. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(`The configuration is not valid:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`);
    this.problems = problems;
  }
}

/** Problems of the sections whose names refer to each other. */
const NAMES_DEPEND_ON =
  /^(CONFIG_FILE|providers|models|proxy|trustProxy|TRUST_PROXY|HTTPS?_PROXY|https?_proxy|\w+_API_KEY|\w+_(BASE_URL|ENDPOINT)|DEFAULT_MODEL)\b/;

/**
 * Loads the configuration: defaults, overridden by the file of CONFIG_FILE, overridden by the environment.
 * @throws ConfigError with all problems
 */
export function loadConfig(env: Environment): Config {
  const problems: string[] = [];
  const file = env.CONFIG_FILE ? readConfigFile(env.CONFIG_FILE, env, problems) : {};
  const overlay = readEnvironment(env, providersOf(file));
  for (const [pointer, value] of overlay.values) set(file, pointer, value);

  const config = convertText(Value.Default(ConfigSchema, file));
  problems.push(...schemaProblems(config, overlay));
  // Names are checked only if the sections that the check reads are valid.
  if (!problems.some((problem) => NAMES_DEPEND_ON.test(problem))) {
    addDemoProvider(config as Config);
    problems.push(...findCrossReferenceProblems(config as Config));
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return config as Config;
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

function schemaProblems(config: unknown, { names }: EnvironmentValues): string[] {
  const seen = new Map<string, string>();
  for (const error of Value.Errors(ConfigSchema, config)) {
    const { path, message } = describeError(error);
    const name = names.get(path) ?? names.get(path.replace(/\/\d+$/, '')) ?? path.slice(1).replaceAll('/', '.');
    if (!seen.has(name)) seen.set(name, `${name}: ${message}`);
  }
  return [...seen.values()];
}

/** Names the choices of a union of literals; TypeBox only says "expected union value". */
function describeError({ path, schema, message }: ValueError): { path: string; message: string } {
  const literals = (schema.anyOf as { const?: unknown }[] | undefined)?.map((one) => one.const);
  if (literals?.every((literal) => literal !== undefined))
    return { path, message: `must be one of ${literals.join(', ')}` };
  if (schema.pattern !== undefined)
    return { path, message: `not valid${schema.description ? ` (${schema.description})` : ''}` };
  return { path, message: (schema.description ? `${message} (${schema.description})` : message).replace(/^E/, 'e') };
}
