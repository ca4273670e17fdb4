import { INVISIBLE } from './patterns.ts';

/** Addresses of Redis: of one primary, of a cluster, and of the Sentinels that know the primary. */

export interface RedisNode {
  readonly host: string;
  readonly port: number;
}

export interface RedisAddress {
  readonly kind: 'primary' | 'cluster' | 'sentinel';
  readonly isTls: boolean;
  readonly user?: string | undefined;
  readonly password?: string | undefined;
  /** One node of `primary`; nodes of the cluster, or Sentinels. */
  readonly nodes: readonly RedisNode[];
  /** Name of the primary that the Sentinels know. Empty for other kinds. */
  readonly name: string;
}

/** Name of the format of these addresses in the schema. */
export const REDIS_URL = 'redis-url';

const SCHEMES = /^(rediss?)(\+cluster|\+sentinel)?:\/\//;
const DEFAULT_PORTS = { primary: 6_379, cluster: 6_379, sentinel: 26_379 };
const FORMS = {
  primary: 'redis://[user:password@]host[:port][/database]',
  cluster: 'redis+cluster://[user:password@]host:port,host:port',
  sentinel: 'redis+sentinel://[user:password@]host:port,host:port/name',
};
const ENCODING = 'in the password write %2F for /, %23 for #, %3F for ? and %25 for %';

/** Returns the problem of an address of Redis; undefined if there is none. Never repeats the address: it may hold a password. */
export function describeRedisUrl(text: string): string | undefined {
  const [scheme, , suffix] = SCHEMES.exec(text) ?? [];
  if (scheme === undefined) {
    return 'must start with redis://, redis+cluster:// or redis+sentinel://, or with rediss for TLS';
  }
  if (INVISIBLE.test(text)) return 'contains an invisible character';
  if (/\s/.test(text)) return 'contains a space; in a password write %20';
  const kind = kindOf(suffix);
  const { authority, rest } = split(text.slice(scheme.length));
  // A `/`, `#` or `?` ends the part with the password, and what follows it would be read as path or query.
  const isSplit = rest.includes('@') || rest.includes('#');
  if (isSplit || !isEncoded(authority)) return `must be ${FORMS[kind]}; ${ENCODING}`;
  return kind === 'primary' ? describePrimary(text) : describeNodes(kind, authority, rest);
}

/** Reads an address without a problem. */
export function parseRedisUrl(text: string): RedisAddress {
  const [scheme = '', tls, suffix] = SCHEMES.exec(text) ?? [];
  const kind = kindOf(suffix);
  const { authority, rest } = split(text.slice(scheme.length));
  const at = authority.lastIndexOf('@');
  const [user = '', ...password] = authority.slice(0, Math.max(0, at)).split(':');
  return {
    kind,
    isTls: tls === 'rediss',
    user: decodeURIComponent(user) || undefined,
    password: decodeURIComponent(password.join(':')) || undefined,
    nodes: authority
      .slice(at + 1)
      .split(',')
      .map((node) => parseNode(node, DEFAULT_PORTS[kind]) as RedisNode),
    name: kind === 'sentinel' ? decodeURIComponent(rest.slice(1)) : '',
  };
}

/** `redis://` is read by the client as it is. */
function describePrimary(text: string): string | undefined {
  if (/^[^/]*,/.test(text.slice(text.lastIndexOf('@') + 1).replace(SCHEMES, ''))) {
    return 'has several hosts; use redis+cluster:// or redis+sentinel://';
  }
  if (!URL.canParse(text)) return `must be ${FORMS.primary}; ${ENCODING}`;
  const { hostname, pathname } = new URL(text);
  if (hostname === '') return 'has no host';
  return /^\/?\d*$/.test(pathname) ? undefined : 'the database after the host must be a number';
}

function describeNodes(kind: 'cluster' | 'sentinel', authority: string, rest: string): string | undefined {
  const hosts = authority.slice(authority.lastIndexOf('@') + 1);
  if (hosts === '') return 'has no host';
  if (hosts.split(',').some((node) => parseNode(node, 0) === undefined)) return `must be ${FORMS[kind]}`;
  if (rest.includes('?')) return 'options after ? are not supported';
  if (kind === 'cluster') {
    return rest === '' || rest === '/' ? undefined : 'a cluster has no database; remove what follows the hosts';
  }
  if (rest.length < 2) return 'has no name of the primary; write it after the hosts, such as /mymaster';
  const isName = isEncoded(rest) && /^\/[^/]+$/.test(rest);
  return isName ? undefined : 'must end with the name of the primary, such as /mymaster; Sentinel has no database';
}

function kindOf(suffix: string | undefined): RedisAddress['kind'] {
  if (suffix === '+cluster') return 'cluster';
  return suffix === '+sentinel' ? 'sentinel' : 'primary';
}

function split(text: string): { authority: string; rest: string } {
  const [authority = ''] = text.split(/[/?#]/, 1);
  return { authority, rest: text.slice(authority.length) };
}

/** Returns undefined if the text is no host with an optional port. */
function parseNode(text: string, defaultPort: number): RedisNode | undefined {
  const [, bracketed, name, port] = /^(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const host = bracketed ?? name;
  const number = port === undefined ? defaultPort : Number(port);
  const isPort = port === undefined || (number > 0 && number <= 65_535);
  return host !== undefined && isPort ? { host, port: number } : undefined;
}

function isEncoded(text: string): boolean {
  return !/%(?![0-9A-Fa-f]{2})/.test(text) && isDecodable(text);
}

function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}
