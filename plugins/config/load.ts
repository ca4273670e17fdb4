import { Value, type ValueError } from '@sinclair/typebox/value';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import { type Environment, type FromEnvironment, fromEnvironment } from './environment.ts';
import { fromFile } from './file.ts';
import { type Config, ConfigSchema } from './schema.ts';

/** A wrong configuration: `problems` names every bad key, and never shows a value. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(`The configuration is wrong:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`);
    this.problems = problems;
  }
}

/**
 * Defaults ← CONFIG_FILE ← environment, checked as a whole.
 * @throws ConfigError with all that is wrong at once
 */
export function loadConfig(env: Environment): Config {
  const problems: string[] = [];
  const file = env.CONFIG_FILE ? fromFile(env.CONFIG_FILE, env, problems) : {};
  const overlay = fromEnvironment(env);
  for (const [pointer, value] of overlay.values) set(file, pointer, value);

  const config = Value.Convert(ConfigSchema, Value.Default(ConfigSchema, file));
  problems.push(...schemaProblems(config, overlay));
  if (problems.length === 0) problems.push(...crossProblems(withDemo(config as Config)));
  if (problems.length > 0) throw new ConfigError(problems);
  return config as Config;
}

/** Without any provider the embedded one answers, so that the first run needs no key. */
function withDemo(config: Config): Config {
  if (Object.keys(config.providers).length === 0) {
    config.providers.demo = { type: 'demo', models: ['demo'] };
    config.defaultModel ??= 'demo/demo';
  }
  return config;
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

function schemaProblems(config: unknown, { names }: FromEnvironment): string[] {
  const seen = new Map<string, string>();
  for (const error of Value.Errors(ConfigSchema, config)) {
    const { path, message } = deepest(error);
    const name = names.get(path) ?? names.get(path.replace(/\/\d+$/, '')) ?? path.slice(1).replaceAll('/', '.');
    if (!seen.has(name)) seen.set(name, `${name}: ${message}`);
  }
  return [...seen.values()];
}

/** For a choice of literals say the choices; TypeBox says "expected union value". */
function deepest({ path, schema, message }: ValueError): { path: string; message: string } {
  const literals = (schema.anyOf as { const?: unknown }[] | undefined)?.map((one) => one.const);
  if (literals?.every((literal) => literal !== undefined))
    return { path, message: `must be one of ${literals.join(', ')}` };
  return { path, message: (schema.description ? `${message} (${schema.description})` : message).replace(/^E/, 'e') };
}

/** What no schema can say: that names refer to something. */
function crossProblems(config: Config): string[] {
  const problems: string[] = [];
  const opened = new Set<string>();
  for (const [name, provider] of Object.entries(config.providers)) {
    if (PROVIDER_TYPES[provider.type]?.requiresBaseUrl && !provider.baseUrl)
      problems.push(`providers.${name}.baseUrl: required for type ${provider.type}`);
    if (provider.models !== undefined) opened.add(name);
  }
  const names = new Set<string>();
  config.models.forEach((route, i) => {
    if (names.has(route.name)) problems.push(`models.${i}.name: ${route.name} stands there twice`);
    names.add(route.name);
    route.targets.forEach(({ provider }, j) => {
      if (!config.providers[provider]) problems.push(`models.${i}.targets.${j}.provider: no provider of that name`);
      opened.add(provider);
    });
  });
  const byDefault = config.defaultModel;
  if (byDefault !== undefined && !names.has(byDefault)) {
    const provider = byDefault.slice(0, byDefault.indexOf('/'));
    if (config.providers[provider]) opened.add(provider);
    else
      problems.push(
        `DEFAULT_MODEL: neither a model of the file nor provider/model (providers: ${Object.keys(config.providers).join(', ')})`,
      );
  }
  for (const name of Object.keys(config.providers)) {
    if (opened.has(name)) continue;
    problems.push(
      `DEFAULT_MODEL: provider ${name} has no model to answer with; add DEFAULT_MODEL=${name}/<model>, or models to the file`,
    );
  }
  return problems;
}
