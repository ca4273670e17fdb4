import { BlockList, isIP } from 'node:net';

/** Chooses the proxy of a provider. */

/** Proxies for all providers, as `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` describe them. */
export interface ProxySettings {
  /** URL of the proxy for providers with `https:` addresses. */
  readonly https?: string | undefined;
  /** URL of the proxy for providers with `http:` addresses. */
  readonly http?: string | undefined;
  /** Hosts that are reached directly. */
  readonly except?: readonly string[] | undefined;
}

const DEFAULT_PORTS: Readonly<Record<string, string>> = { 'http:': '80', 'https:': '443' };

/**
 * Returns the URL of the proxy for a base URL; undefined for a direct connection.
 * @param own the provider's own setting, which overrides the others: a URL, or false for no proxy
 */
export function chooseProxy(
  baseUrl: string,
  own: string | false | undefined,
  settings: ProxySettings = {},
): string | undefined {
  if (own !== undefined) return own === false ? undefined : own;
  const { protocol, hostname, port } = new URL(baseUrl);
  const proxy = protocol === 'https:' ? settings.https : settings.http;
  if (proxy === undefined) return undefined;
  const host = hostname.replace(/^\[|\]$/g, '').toLowerCase();
  const isDirect = settings.except?.some((entry) => matches(entry, host, port || (DEFAULT_PORTS[protocol] as string)));
  return isDirect ? undefined : proxy;
}

/** Returns true if an entry of `NO_PROXY` covers a host: `*`, a name and its subdomains, an address, or a CIDR range. */
function matches(entry: string, host: string, port: string): boolean {
  if (entry === '*') return true;
  const text = entry.toLowerCase();
  const [suffix = '', entryPort = port] = (isIP(text) === 0 && /:(\d+)$/.exec(text)) || [];
  if (entryPort !== port) return false;
  const bare = text.slice(0, text.length - suffix.length).replace(/^\[|\]$/g, '');
  if (isIP(host) !== 0) return host === bare || isInRange(bare, host);
  const domain = bare.replace(/^\*?\./, '');
  return domain !== '' && (host === domain || host.endsWith(`.${domain}`));
}

function isInRange(range: string, address: string): boolean {
  const [network = '', bits = ''] = range.split('/');
  const family = isIP(network);
  if (family === 0 || !/^\d{1,3}$/.test(bits) || Number(bits) > (family === 4 ? 32 : 128)) return false;
  const list = new BlockList();
  list.addSubnet(network, Number(bits), family === 4 ? 'ipv4' : 'ipv6');
  return list.check(address, isIP(address) === 4 ? 'ipv4' : 'ipv6');
}

/** Returns true for the URL of an HTTP proxy, with or without a user and a password. */
export function isProxyUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, hostname, pathname, search, hash, username, password } = new URL(text);
  if (!(protocol in DEFAULT_PORTS) || hostname === '' || pathname !== '/' || search !== '' || hash !== '') return false;
  try {
    decodeURIComponent(username + password);
    return true;
  } catch {
    return false;
  }
}
