import type { TSchema } from '@sinclair/typebox';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import { environmentNames } from './environment.ts';
import { ConfigSchema } from './schema.ts';
import type { Environment } from './variables.ts';

/**
 * Finds environment variables that look like a setting and are none, such as spelling mistakes. They are no errors:
 * a container gets variables of other programs.
 */

export interface UnknownVariable {
  readonly name: string;
  /** The variable, or the setting of the file, that was probably meant. Undefined if nothing is similar. */
  readonly similar: string | undefined;
}

/** Prefixes that no other program is known to use. */
const OWN_PREFIXES = ['SLUICE_', 'STREAM_', 'STREAMS_', 'DRAIN_', 'TICKET_', 'CORS_', 'LISTEN_', 'PLAYGROUND_'];

/** Endings after the name of a provider or `REDIS` that people use, by the ending of the variable that is read. */
const ALIASES: Readonly<Record<string, readonly string[]>> = {
  API_KEY: ['KEY', 'KEYS', 'APIKEY', 'APIKEYS', 'API_KEYS', 'TOKEN', 'API_TOKEN'],
  BASE_URL: [
    'URL',
    'URI',
    'BASEURL',
    'API_URL',
    'API_BASE',
    'API_BASE_URL',
    'BASE',
    'ENDPOINT',
    'API_ENDPOINT',
    'HOST',
  ],
  ENDPOINT: ['URL', 'URI', 'API_ENDPOINT', 'API_BASE', 'HOST'],
  URL: ['URI', 'HOST', 'PORT', 'ADDR', 'ADDRESS', 'PASSWORD', 'USER', 'USERNAME', 'DB', 'DATABASE', 'TLS', 'DSN'],
};

/** Variables of other programs that are similar to ours. */
const FOREIGN: ReadonlySet<string> = new Set(['ALL_PROXY', 'FTP_PROXY', 'RSYNC_PROXY']);

interface KnownNames {
  readonly variables: ReadonlySet<string>;
  /** Settings as in `settingNames`. */
  readonly settings: ReadonlyMap<string, string>;
}

/** Largest edit distance of a long name to one that is similar. */
const MAX_DISTANCE = 2;
/** Most variables that are reported. */
const MAX_REPORTED = 20;

/**
 * Returns the unknown variables. Those that are empty count as unset.
 * @param used names that the configuration has read, among them those that the file uses
 */
export function findUnknownVariables(env: Environment, used: ReadonlySet<string>): UnknownVariable[] {
  const known: KnownNames = { variables: variableNames(), settings: settingNames() };
  const isKnown = (name: string) =>
    [name, name.replace(/_FILE$/, '')].some((one) => used.has(one) || known.variables.has(one));
  const found: UnknownVariable[] = [];
  for (const [name, value = ''] of Object.entries(env)) {
    const upper = name.toUpperCase();
    if (!/\S/.test(value) || !/^\w{1,100}$/.test(name)) continue;
    if (isKnown(name) || FOREIGN.has(upper) || isServiceLink(name, value)) continue;
    // Both spellings are common.
    if (upper.endsWith('_PROXY') && isKnown(upper)) continue;
    const similar = findSimilar(upper, known, env) ?? findSimilarFile(upper, known, env);
    if (similar === undefined && !OWN_PREFIXES.some((prefix) => upper.startsWith(prefix))) continue;
    found.push({ name, similar });
    if (found.length === MAX_REPORTED) break;
  }
  return found;
}

/** Returns one sentence about unknown variables. */
export function describeUnknownVariables(found: readonly UnknownVariable[]): string {
  const names = found.map(({ name, similar }) => (similar === undefined ? name : `${name} (did you mean ${similar}?)`));
  return `unknown environment variables are ignored: ${names.join(', ')}`;
}

/** Returns all variables that are read whatever the file says. */
function variableNames(): Set<string> {
  const ofProviders = Object.values(PROVIDER_TYPES).flatMap(({ apiKeyEnv, baseUrlEnv = [] }) => [
    ...(apiKeyEnv ? [apiKeyEnv] : []),
    ...baseUrlEnv,
  ]);
  return new Set(['CONFIG_FILE', ...environmentNames().values(), ...ofProviders]);
}

/** Returns true for a variable that Kubernetes and Docker set for each service: `REDIS_PORT=tcp://10.0.0.1:6379`. */
function isServiceLink(name: string, value: string): boolean {
  return (
    /_SERVICE_(?:HOST|PORT)(?:_|$)|_PORT_\d{1,5}_(?:TCP|UDP|SCTP)/.test(name) || /^(?:tcp|udp|sctp):\/\//.test(value)
  );
}

/** Returns the variable or the setting that a name in capitals was probably meant for. */
function findSimilar(name: string, known: KnownNames, env: Environment): string | undefined {
  const { variables, settings } = known;
  if (variables.has(name)) return name;
  const plain = name.replace(/^SLUICE_/, '');
  const exact = variables.has(plain) ? plain : settings.get(plain);
  if (exact !== undefined) return exact;
  const alias = [...variables].find((variable) => isAlias(plain, variable));
  if (alias !== undefined) return env[alias] || env[`${alias}_FILE`] ? undefined : alias;
  const ofOwnPrefix = OWN_PREFIXES.some((prefix) => name.startsWith(prefix));
  let [nearest, least]: [string | undefined, number] = [undefined, Number.POSITIVE_INFINITY];
  for (const [candidate, display] of [...[...variables].map((one) => [one, one] as const), ...settings]) {
    const isBeginning = ofOwnPrefix && candidate.startsWith(`${plain}_`);
    const most = maxDistance(candidate);
    const mayBeNear = most > 0 && Math.abs(plain.length - candidate.length) <= most;
    const distance = mayBeNear ? editDistance(plain, candidate, most) : Number.POSITIVE_INFINITY;
    if (distance > most && !isBeginning) continue;
    const rank = Math.min(distance, MAX_DISTANCE + 1);
    if (rank < least) [nearest, least] = [display, rank];
  }
  return nearest;
}

/** Returns the variable with the suffix `_FILE` that a name in capitals was probably meant for. */
function findSimilarFile(name: string, known: KnownNames, env: Environment): string | undefined {
  if (!name.endsWith('_FILE')) return undefined;
  const similar = findSimilar(name.slice(0, -'_FILE'.length), known, env);
  return similar !== undefined && known.variables.has(similar) ? `${similar}_FILE` : similar;
}

/** Returns true for `BELLA_KEY` and `BELLA_API_KEY`. */
function isAlias(name: string, variable: string): boolean {
  return Object.entries(ALIASES).some(([ending, aliases]) => {
    if (!variable.endsWith(`_${ending}`)) return false;
    const prefix = variable.slice(0, -ending.length);
    return name.startsWith(prefix) && aliases.includes(name.slice(prefix.length));
  });
}

/** Names of short variables and of providers are near to names that others use. */
function maxDistance(name: string): number {
  const providerLength = name.search(/_(?:API_KEY|BASE_URL|ENDPOINT)$/);
  if (providerLength >= 0) return providerLength < 4 ? 0 : 1;
  if (name.length < 6) return 0;
  return name.length < 10 ? 1 : MAX_DISTANCE;
}

interface Section extends TSchema {
  readonly properties?: Readonly<Record<string, Section>>;
}

/**
 * Returns the names that variables of all settings would have: `STREAMS_TTL_MS` with the variable that is read,
 * `DEADLINES_IDLE_MS` with the path of the setting in the file.
 */
function settingNames(): Map<string, string> {
  const names = environmentNames();
  const found = new Map<string, string>();
  const visit = ({ properties = {} }: Section, path: readonly string[]) => {
    for (const [key, child] of Object.entries(properties)) {
      const at = [...path, key];
      visit(child, at);
      // Names such as KEYS and MODELS are too common.
      if (child.type === 'object' || child.type === 'array') continue;
      const name = at.map((part) => part.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()).join('_');
      found.set(name, names.get(`/${at.join('/')}`) ?? `${at.join('.')} in the file`);
    }
  };
  visit(ConfigSchema, []);
  return found;
}

/**
 * Returns the number of characters that are missing, too many, wrong, or swapped with their neighbour; more than `most`
 * as soon as that is certain.
 */
function editDistance(a: string, b: string, most: number): number {
  let [before, last]: [number[], number[]] = [[], Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const isSame = a[i - 1] === b[j - 1];
      const isSwapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      const swapped = isSwapped ? (before[j - 2] as number) + 1 : Number.POSITIVE_INFINITY;
      const replaced = (last[j - 1] as number) + (isSame ? 0 : 1);
      row.push(Math.min((last[j] as number) + 1, (row[j - 1] as number) + 1, replaced, swapped));
    }
    // A swap looks back at the row before.
    if (Math.min(...row, ...last) > most) return most + 1;
    [before, last] = [last, row];
  }
  return last[b.length] as number;
}
