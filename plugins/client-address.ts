import { isIP } from 'node:net';

/** Groups of an IPv6 address that name a network of one client: 64 bits. */
const NETWORK_GROUPS = 4;

/** The parts of a request that name the client. */
export interface AddressedRequest {
  /** As Fastify determines it: behind trusted gateways, the address that they report. */
  readonly ip: string | undefined;
  readonly socket: { readonly remoteAddress?: string | undefined };
}

/**
 * Returns the name by which the limits of a client address count: an IPv4 address, or the /64 network of an IPv6
 * address, of which one client has all. An IPv4 address that is written as IPv6 counts as IPv4.
 *
 * A trusted gateway may report any text. What is no address counts as the gateway, so that nobody gets limits of their
 * own by inventing a text.
 */
export function clientAddress({ ip = '', socket }: AddressedRequest): string {
  return networkOf(withoutPort(ip)) ?? networkOf(socket.remoteAddress ?? '') ?? 'unknown';
}

/** Some gateways report the port, too: `192.0.2.1:50000`, `[2001:db8::1]:50000`. */
function withoutPort(text: string): string {
  if (isIP(text) !== 0) return text;
  const address = text.slice(0, Math.max(0, text.lastIndexOf(':')));
  return address.startsWith('[') && address.endsWith(']') ? address.slice(1, -1) : address;
}

function networkOf(address: string): string | undefined {
  const family = isIP(address);
  if (family === 0) return undefined;
  if (family === 4) return address;
  const groups = groupsOf(address);
  const [a, b, c, d, e, f, high = 0, low = 0] = groups;
  const isMapped = f === 0xffff && [a, b, c, d, e].every((group) => group === 0);
  if (isMapped) return [high >> 8, high & 255, low >> 8, low & 255].join('.');
  return `${groups
    .slice(0, NETWORK_GROUPS)
    .map((group) => group.toString(16))
    .join(':')}::/64`;
}

/** Returns the eight groups of a valid IPv6 address. */
function groupsOf(address: string): number[] {
  const [text = ''] = address.split('%', 1);
  const [head = '', tail] = text.split('::', 2);
  const before = parseGroups(head);
  const after = parseGroups(tail ?? '');
  const zeros = tail === undefined ? 0 : 8 - before.length - after.length;
  return [...before, ...Array<number>(zeros).fill(0), ...after];
}

/** Parses groups that are separated by colons. The last may be an IPv4 address, which has the bits of two. */
function parseGroups(text: string): number[] {
  if (text === '') return [];
  return text.split(':').flatMap((group) => {
    if (!group.includes('.')) return [Number.parseInt(group, 16)];
    const [a = 0, b = 0, c = 0, d = 0] = group.split('.').map(Number);
    return [(a << 8) | b, (c << 8) | d];
  });
}
