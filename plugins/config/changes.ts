import { isDeepStrictEqual } from 'node:util';
import { createModelRoutes } from './model-routes.ts';
import type { Config } from './schema.ts';

/** Names of everything that a reload has changed. Holds no hash and no value. */
export interface ConfigChanges {
  readonly keysAdded: readonly string[];
  readonly keysRemoved: readonly string[];
  /** Another key has the name now. */
  readonly keysReplaced: readonly string[];
  /** Models, limits or the expiry date have changed. */
  readonly keysChanged: readonly string[];
  /** Keys that have expired since the last reload, or that are new and have expired. */
  readonly keysExpired: readonly string[];
  /** Public names. */
  readonly modelsAdded: readonly string[];
  readonly modelsRemoved: readonly string[];
  /** Models of the list `models` whose targets or settings have changed. */
  readonly modelsChanged: readonly string[];
  /** True if the settings of tokens have changed. */
  readonly jwtChanged: boolean;
}

/** Returns a function that compares each configuration with the one before it. `config` is the first one. */
export function createChangeTracker(config: Config): (next: Config) => ConfigChanges {
  let before = summaryOf(config, Date.now());
  return (next) => {
    const after = summaryOf(next, Date.now());
    const changes = compare(before, after);
    before = after;
    return changes;
  };
}

type Key = Config['keys'][number];
type Model = Config['models'][number];

interface Summary {
  readonly keys: ReadonlyMap<string, Key>;
  readonly expired: ReadonlySet<string>;
  readonly modelNames: ReadonlySet<string>;
  readonly models: ReadonlyMap<string, Model>;
  readonly jwt: Config['jwt'];
}

function summaryOf(config: Config, now: number): Summary {
  const { keys, models, jwt } = config;
  const isExpired = ({ expiresAt }: Key) => expiresAt !== undefined && Date.parse(expiresAt) <= now;
  return {
    keys: new Map(keys.map((key) => [key.name, key])),
    expired: new Set(keys.filter(isExpired).map(({ name }) => name)),
    modelNames: new Set(createModelRoutes(config).names),
    models: new Map(models.map((model) => [model.name, model])),
    jwt,
  };
}

function compare(before: Summary, after: Summary): ConfigChanges {
  const keysReplaced: string[] = [];
  const keysChanged: string[] = [];
  for (const [name, { sha256, ...settings }] of after.keys) {
    const known = before.keys.get(name);
    if (known === undefined) continue;
    const { sha256: knownHash, ...knownSettings } = known;
    if (sha256.toLowerCase() !== knownHash.toLowerCase()) keysReplaced.push(name);
    if (!isDeepStrictEqual(settings, knownSettings)) keysChanged.push(name);
  }
  const modelsChanged = [...after.models].flatMap(([name, model]) => {
    const known = before.models.get(name);
    return known === undefined || isDeepStrictEqual(model, known) ? [] : [name];
  });
  return {
    keysAdded: missingIn(before.keys, after.keys.keys()),
    keysRemoved: missingIn(after.keys, before.keys.keys()),
    keysReplaced,
    keysChanged,
    keysExpired: missingIn(before.expired, after.expired),
    modelsAdded: missingIn(before.modelNames, after.modelNames),
    modelsRemoved: missingIn(after.modelNames, before.modelNames),
    modelsChanged,
    jwtChanged: !isDeepStrictEqual(before.jwt, after.jwt),
  };
}

function missingIn(known: { has(name: string): boolean }, names: Iterable<string>): string[] {
  return [...names].filter((name) => !known.has(name));
}
