import { isIP } from 'node:net';
import { isForbiddenHost } from '../../providers/addresses.ts';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import { createModelRoutes } from './model-routes.ts';
import type { Config } from './schema.ts';

/** What no schema can say: that names refer to something. */
export function findCrossReferenceProblems(config: Config): string[] {
  const problems: string[] = [];
  for (const address of Array.isArray(config.trustProxy) ? config.trustProxy : []) {
    if (!isAddress(address)) problems.push('TRUST_PROXY: neither a number of hops nor a list of addresses');
  }
  problems.push(...findAuthProblems(config), ...findUnknownModels(config));
  const providersWithModels = new Set<string>();
  for (const [name, provider] of Object.entries(config.providers)) {
    if (provider.baseUrl !== undefined && !URL.canParse(provider.baseUrl))
      problems.push(`providers.${name}.baseUrl: not a URL`);
    else if (!provider.allowPrivate && isForbiddenUrl(provider.baseUrl))
      problems.push(`providers.${name}.baseUrl: a link-local or metadata address needs allowPrivate: true`);
    const type = PROVIDER_TYPES[provider.type];
    if (!type?.embedded && type?.baseUrl === undefined && !provider.baseUrl)
      problems.push(
        `providers.${name}.baseUrl: required for type ${provider.type}${type?.baseUrlEnv ? `; or set ${type.baseUrlEnv}` : ''}`,
      );
    if (provider.models !== undefined) providersWithModels.add(name);
  }
  const names = new Set<string>();
  config.models.forEach((route, i) => {
    if (names.has(route.name)) problems.push(`models.${i}.name: ${route.name} stands there twice`);
    names.add(route.name);
    route.targets.forEach(({ provider }, j) => {
      if (!config.providers[provider]) problems.push(`models.${i}.targets.${j}.provider: no provider of that name`);
      providersWithModels.add(provider);
    });
  });
  const defaultModel = config.defaultModel;
  if (defaultModel !== undefined && !names.has(defaultModel)) {
    const [, provider = ''] = /^([^/]+)\/.+/.exec(defaultModel) ?? [];
    if (!config.providers[provider]) {
      const known = Object.keys(config.providers).join(', ');
      return [...problems, `DEFAULT_MODEL: neither a model of the file nor provider/model (providers: ${known})`];
    }
    providersWithModels.add(provider);
  }
  for (const name of Object.keys(config.providers)) {
    if (providersWithModels.has(name)) continue;
    problems.push(
      `DEFAULT_MODEL: provider ${name} has no model to answer with; add DEFAULT_MODEL=${name}/<model>, or models to the file`,
    );
  }
  return problems;
}

/** A key for models that nobody can ask opens nothing. */
function findUnknownModels(config: Config): string[] {
  const routes = createModelRoutes(config);
  return config.keys.flatMap(({ models = [] }, i) =>
    models
      .filter((name) => routes.find(name) === undefined)
      .map((name) => `keys.${i}.models: ${name} is not configured; configured: ${routes.names.join(', ')}`),
  );
}

function isForbiddenUrl(url: string | undefined): boolean {
  return url !== undefined && URL.canParse(url) && isForbiddenHost(new URL(url).hostname);
}

function findAuthProblems({ keys, jwt, corsOrigins, redis, ticketSecret }: Config): string[] {
  const problems: string[] = [];
  if (redis !== undefined && (keys.length > 0 || jwt !== undefined) && ticketSecret === undefined) {
    problems.push('TICKET_SECRET: needed with REDIS_URL, keys and tokens, the same on every replica');
  }
  if (corsOrigins.includes('*') && (keys.length > 0 || jwt !== undefined)) {
    problems.push('CORS_ORIGINS: `*` goes without keys and tokens only; list the origins');
  }
  const seen = new Set<string>();
  keys.forEach(({ name, sha256, expiresAt }, i) => {
    for (const mark of [`name ${name}`, `key ${sha256.toLowerCase()}`]) {
      if (seen.has(mark)) problems.push(`keys.${i}: this ${mark.split(' ')[0]} stands there twice`);
      seen.add(mark);
    }
    if (expiresAt !== undefined && Number.isNaN(Date.parse(expiresAt)))
      problems.push(`keys.${i}.expiresAt: not a date`);
  });
  if (jwt === undefined) return problems;
  if ((jwt.jwksUrl === undefined) === (jwt.secret === undefined)) problems.push('jwt: give either jwksUrl or secret');
  if (isForbiddenUrl(jwt.jwksUrl)) problems.push('jwt.jwksUrl: a link-local or metadata address');
  // A public key taken for a shared secret is the oldest trick of all.
  const shared = jwt.algorithms.filter((one) => one.startsWith('HS'));
  if (jwt.secret === undefined ? shared.length > 0 : shared.length < jwt.algorithms.length) {
    problems.push('jwt.algorithms: HS… go with secret, all others with jwksUrl');
  }
  return problems;
}

/** An address, a CIDR range, or a name that Fastify knows. */
function isAddress(text: string): boolean {
  if (['loopback', 'linklocal', 'uniquelocal'].includes(text)) return true;
  const [, address = '', bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const family = isIP(address);
  return family !== 0 && (bits === undefined || Number(bits) <= (family === 4 ? 32 : 128));
}
