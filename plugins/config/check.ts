import { isIP } from 'node:net';
import { isForbiddenHost } from '../../providers/addresses.ts';
import { isProxyUrl } from '../../providers/proxy.ts';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import { createModelRoutes } from './model-routes.ts';
import { describeRedisUrl, parseRedisUrl } from './redis-url.ts';
import type { Config } from './schema.ts';

/** Shortest time of a connection: clients would spend it on reconnecting. */
const MIN_CONNECTION_MS = 1_000;

const NO_PROXY_URL = 'must be the http: or https: URL of a proxy, with special characters percent-encoded';

/** Returns the problems that a schema cannot find: names that are not defined, and settings that exclude each other. */
export function findCrossReferenceProblems(config: Config): string[] {
  const problems: string[] = [];
  for (const address of Array.isArray(config.trustProxy) ? config.trustProxy : []) {
    if (!isAddress(address)) problems.push('TRUST_PROXY: must be a number of hops or a list of addresses');
  }
  for (const name of ['https', 'http'] as const) {
    const url = config.proxy?.[name];
    if (url !== undefined && !isProxyUrl(url)) problems.push(`${name.toUpperCase()}_PROXY: ${NO_PROXY_URL}`);
  }
  const { maxConnectionMs = 0 } = config.streams ?? {};
  if (maxConnectionMs !== 0 && maxConnectionMs < MIN_CONNECTION_MS)
    problems.push(`STREAM_MAX_CONNECTION_MS: must be 0 or at least ${MIN_CONNECTION_MS}`);
  problems.push(
    ...findUsageProblems(config),
    ...findRedisProblems(config),
    ...findResponsesProblems(config),
    ...findAuthProblems(config),
    ...findUnknownModels(config),
  );
  const providersWithModels = new Set<string>();
  for (const [name, provider] of Object.entries(config.providers)) {
    if (provider.baseUrl !== undefined && !URL.canParse(provider.baseUrl))
      problems.push(`providers.${name}.baseUrl: must be a URL`);
    else if (!provider.allowPrivate && isForbiddenUrl(provider.baseUrl))
      problems.push(
        `providers.${name}.baseUrl: is a link-local or metadata address; set allowPrivate: true if it is meant`,
      );
    const apiPath = apiPathOf(provider.baseUrl);
    if (apiPath) problems.push(`providers.${name}.baseUrl: must end before the path of the API; leave out ${apiPath}`);
    if (provider.proxy && !isProxyUrl(provider.proxy)) problems.push(`providers.${name}.proxy: ${NO_PROXY_URL}`);
    const type = PROVIDER_TYPES[provider.type];
    if (!type?.embedded && type?.baseUrl === undefined && !provider.baseUrl)
      problems.push(
        `providers.${name}.baseUrl: required for type ${provider.type}${type?.baseUrlEnv ? `; or set ${type.baseUrlEnv[0]}` : ''}`,
      );
    if (provider.models !== undefined) providersWithModels.add(name);
  }
  const names = new Set<string>();
  config.models.forEach((route, i) => {
    if (names.has(route.name)) problems.push(`models.${i}.name: duplicate name ${route.name}`);
    names.add(route.name);
    problems.push(...emptyPrices(`models.${i}`, route));
    route.targets.forEach(({ provider }, j) => {
      if (!config.providers[provider]) problems.push(`models.${i}.targets.${j}.provider: no provider has this name`);
      providersWithModels.add(provider);
    });
  });
  const defaultModel = config.defaultModel;
  if (defaultModel !== undefined && !names.has(defaultModel)) {
    const [, provider = ''] = /^([^/]+)\/.+/.exec(defaultModel) ?? [];
    if (!config.providers[provider]) {
      const known = Object.keys(config.providers).join(', ');
      return [...problems, `DEFAULT_MODEL: must be a model of the file or <provider>/<model> (providers: ${known})`];
    }
    providersWithModels.add(provider);
  }
  for (const name of Object.keys(config.providers)) {
    if (providersWithModels.has(name)) continue;
    problems.push(
      `DEFAULT_MODEL: provider ${name} has no model; set DEFAULT_MODEL=${name}/<model>, or add models to the file`,
    );
  }
  return problems;
}

/** Finds usage records without a destination. */
function findUsageProblems({ usage: { to, file }, redis }: Config): string[] {
  const problems: string[] = [];
  if (to === 'file' && file === undefined) problems.push('USAGE_FILE: required with USAGE_TO=file');
  if (to !== 'file' && file !== undefined) problems.push('USAGE_FILE: has no effect without USAGE_TO=file');
  if (to === 'redis' && redis === undefined) problems.push('REDIS_URL: required with USAGE_TO=redis');
  return problems;
}

/** Finds a webhook that cannot be delivered, and bounds that hold no question. */
function findResponsesProblems({ responses }: Config): string[] {
  const { webhook, maxRequestChars } = responses;
  const problems: string[] = [];
  for (const name of ['maxBytesPerOwner', 'maxTotalBytes'] as const) {
    if (responses[name] < 4 * maxRequestChars)
      problems.push(`responses.${name}: must be at least four times responses.maxRequestChars`);
  }
  if (webhook !== undefined && !URL.canParse(webhook.url)) problems.push('responses.webhook.url: must be a URL');
  else if (webhook?.allowPrivate === false && isForbiddenUrl(webhook.url))
    problems.push('responses.webhook.url: is a link-local or metadata address; set allowPrivate: true if it is meant');
  if (webhook?.proxy && !isProxyUrl(webhook.proxy)) problems.push(`responses.webhook.proxy: ${NO_PROXY_URL}`);
  return problems;
}

/** Finds settings of Redis that do not fit its address. */
function findRedisProblems({ redis }: Config): string[] {
  // The schema has found a section or an address that is not valid.
  if (typeof redis?.url !== 'string' || describeRedisUrl(redis.url) !== undefined) return [];
  const { kind } = parseRedisUrl(redis.url);
  const problems: string[] = [];
  if (kind === 'cluster' && /[{}]/.test(String(redis.prefix))) {
    problems.push('REDIS_PREFIX: must not contain { or } with redis+cluster://, or all keys would be on one node');
  }
  if (kind !== 'sentinel' && redis.sentinelPassword !== undefined) {
    problems.push('REDIS_SENTINEL_PASSWORD: has no effect without redis+sentinel://');
  }
  return problems;
}

/** Finds models of keys and of defaults that are not configured. */
function findUnknownModels(config: Config): string[] {
  const { keys, keyDefaults, jwt } = config;
  const routes = createModelRoutes(config);
  const lists = [
    ...keys.map(({ models }, i) => ({ path: `keys.${i}`, models })),
    { path: 'keyDefaults', models: keyDefaults?.models },
    { path: 'jwt.defaults', models: jwt?.defaults?.models },
  ];
  return lists.flatMap(({ path, models = [] }) =>
    models
      .filter((name) => routes.find(name) === undefined)
      .map((name) => `${path}.models: ${name} is not configured; configured: ${routes.names.join(', ')}`),
  );
}

/** Finds prices that name neither input nor output: no answer would have a cost. */
function emptyPrices(path: string, { price, targets }: Config['models'][number]): string[] {
  const prices = [price, ...targets.map((target) => target.price)];
  return prices.flatMap((one, i) =>
    one === undefined || one.input !== undefined || one.output !== undefined
      ? []
      : `${path}.${i === 0 ? '' : `targets.${i - 1}.`}price: set input, output, or both`,
  );
}

/** Paths that adapters append. Addresses are often copied with them. */
const API_PATHS = ['/chat/completions', '/completions', '/responses', '/messages', '/api/chat'];

/** Returns the path of an API at the end of a base URL; undefined if there is none. */
function apiPathOf(url: string | undefined): string | undefined {
  if (url === undefined || !URL.canParse(url)) return undefined;
  const { pathname } = new URL(url);
  const path = pathname.endsWith('/') ? pathname.slice(0, -1) : pathname;
  return API_PATHS.find((one) => path.endsWith(one));
}

/** Returns true for a date that exists. JavaScript takes the 31st of February for a day in March. */
function isDate(text: string): boolean {
  const day = text.slice(0, 10);
  const midnight = Date.parse(`${day}T00:00:00Z`);
  return !Number.isNaN(Date.parse(text)) && !Number.isNaN(midnight) && new Date(midnight).toISOString().startsWith(day);
}

function isForbiddenUrl(url: string | undefined): boolean {
  return url !== undefined && URL.canParse(url) && isForbiddenHost(new URL(url).hostname);
}

function findAuthProblems(config: Config): string[] {
  const { keys, keyDefaults, jwt, anonymous, corsOrigins, redis, ticketSecret } = config;
  const problems: string[] = [];
  if (keyDefaults !== undefined && keys.length === 0) {
    problems.push(
      jwt === undefined
        ? 'keyDefaults: needs keys; without keys everybody can ask, and anonymous has their limits'
        : 'keyDefaults: needs keys; the defaults of tokens are jwt.defaults',
    );
  }
  if (anonymous !== undefined && (keys.length > 0 || jwt !== undefined)) {
    problems.push('anonymous: applies only without keys and jwt; remove it, and set keyDefaults or jwt.defaults');
  }
  if (redis !== undefined && (keys.length > 0 || jwt !== undefined) && ticketSecret === undefined) {
    problems.push('TICKET_SECRET: required with REDIS_URL and keys or tokens; must be the same on every replica');
  }
  if (ticketSecret !== undefined && keys.length === 0 && jwt === undefined) {
    problems.push('TICKET_SECRET: needs keys or jwt; without them everybody can ask, and no ticket is needed');
  }
  if (corsOrigins.includes('*') && (keys.length > 0 || jwt !== undefined)) {
    problems.push('CORS_ORIGINS: `*` is not allowed with keys or tokens; list the origins');
  }
  const seen = new Set<string>();
  keys.forEach(({ name, sha256, expiresAt }, i) => {
    for (const mark of [`name ${name}`, `key ${sha256.toLowerCase()}`]) {
      if (seen.has(mark)) problems.push(`keys.${i}: duplicate ${mark.split(' ')[0]}`);
      seen.add(mark);
    }
    if (expiresAt !== undefined && !isDate(expiresAt))
      problems.push(`keys.${i}.expiresAt: must be a date that exists, such as 2027-01-31 or 2027-01-31T12:00:00Z`);
  });
  if (jwt === undefined) return problems;
  if ((jwt.jwksUrl === undefined) === (jwt.secret === undefined)) problems.push('jwt: set either jwksUrl or secret');
  if (jwt.jwksUrl !== undefined && !URL.canParse(jwt.jwksUrl)) problems.push('jwt.jwksUrl: must be a URL');
  if (isForbiddenUrl(jwt.jwksUrl)) problems.push('jwt.jwksUrl: is a link-local or metadata address');
  // Otherwise an attacker could sign a token with the public key as a shared secret (algorithm confusion).
  const shared = jwt.algorithms.filter((one) => one.startsWith('HS'));
  if (jwt.secret === undefined ? shared.length > 0 : shared.length < jwt.algorithms.length) {
    problems.push('jwt.algorithms: HS… algorithms require secret, all others require jwksUrl');
  }
  return problems;
}

/** Returns true for an address, a CIDR range, or a name that Fastify knows. */
function isAddress(text: string): boolean {
  if (['loopback', 'linklocal', 'uniquelocal'].includes(text)) return true;
  const [, address = '', bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const family = isIP(address);
  return family !== 0 && (bits === undefined || Number(bits) <= (family === 4 ? 32 : 128));
}
