import { lookup } from 'node:dns';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { ProviderError } from './errors.ts';

/**
 * Addresses at which no provider runs: link-local addresses, and the metadata services of clouds, which
 * hand out a machine's own credentials. Includes the IPv6 addresses that embed such an IPv4 address.
 */
const FORBIDDEN_ADDRESSES = new BlockList();
FORBIDDEN_ADDRESSES.addSubnet('169.254.0.0', 16, 'ipv4'); // link-local; AWS, Azure, Google, Oracle
FORBIDDEN_ADDRESSES.addAddress('100.100.100.200', 'ipv4'); // Alibaba
FORBIDDEN_ADDRESSES.addAddress('168.63.129.16', 'ipv4'); // Azure's platform services
FORBIDDEN_ADDRESSES.addSubnet('fe80::', 10, 'ipv6');
FORBIDDEN_ADDRESSES.addAddress('fd00:ec2::254', 'ipv6'); // AWS
FORBIDDEN_ADDRESSES.addAddress('fd20:ce::254', 'ipv6'); // Google
FORBIDDEN_ADDRESSES.addAddress('fd00:c1::a9fe:a9fe', 'ipv6'); // Oracle
FORBIDDEN_ADDRESSES.addAddress('192.0.0.192', 'ipv4'); // Oracle
// 6to4, NAT64, IPv4-compatible and IPv4-translated addresses
for (const ipv4Prefix of ['a9fe', '6464', 'a83f']) FORBIDDEN_ADDRESSES.addSubnet(`2002:${ipv4Prefix}::`, 32, 'ipv6');
for (const prefix of ['64:ff9b::', '::', '::ffff:0:']) {
  FORBIDDEN_ADDRESSES.addSubnet(`${prefix}a9fe:0`, 112, 'ipv6');
  FORBIDDEN_ADDRESSES.addAddress(`${prefix}6464:64c8`, 'ipv6');
}

/**
 * Returns true if the host name of a URL is a forbidden address or the name of a metadata service. Other
 * names are not resolved here, but when a connection is made. IPv6 addresses may have brackets.
 */
export function isForbiddenHost(hostname: string): boolean {
  const address = hostname.replace(/^\[|\]$/g, '');
  const family = isIP(address);
  if (family !== 0) return FORBIDDEN_ADDRESSES.check(address, family === 4 ? 'ipv4' : 'ipv6');
  return /^metadata(\.google\.internal)?$/i.test(address);
}

/**
 * Resolves a host name to its allowed addresses. Runs for each connection, because DNS records may change after the
 * start. Forbidden addresses are left out: the name of a machine in a local network often has a link-local one, too.
 * If no address is left, the lookup fails with a `ProviderError` that says so.
 * @param resolve looks up a name, as `dns.lookup` does
 */
export function createAllowedLookup(resolve: LookupFunction = lookup as LookupFunction): LookupFunction {
  return (hostname, options, callback) => {
    resolve(hostname, { ...options, all: true }, (error, found) => {
      if (error) return callback(error, '');
      const addresses = (Array.isArray(found) ? found : []).filter(({ address }) => !isForbiddenHost(address));
      const [first] = addresses;
      if (first === undefined) {
        return callback(new ProviderError('upstream_unreachable', FORBIDDEN_ADDRESS), '');
      }
      if (options.all) callback(null, addresses);
      else callback(null, first.address, first.family);
    });
  };
}

/** The record of the name is wrong, or the provider needs `allowPrivate`. A retry meets the same addresses. */
const FORBIDDEN_ADDRESS = { reason: 'forbidden_address', retryable: false } as const;

/** Addresses that only machines of the same network reach. */
const PRIVATE_IPV4: readonly (readonly [string, number])[] = [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10], // shared by the customers of a carrier; also VPNs
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15], // benchmarks
  ['224.0.0.0', 4], // multicast
  ['240.0.0.0', 4],
];

const PRIVATE_ADDRESSES = new BlockList();
for (const [address, bits] of PRIVATE_IPV4) {
  PRIVATE_ADDRESSES.addSubnet(address, bits, 'ipv4');
  // NAT64: an IPv6 address for each IPv4 address.
  PRIVATE_ADDRESSES.addSubnet(`64:ff9b::${address}`, 96 + bits, 'ipv6');
}
PRIVATE_ADDRESSES.addSubnet('::', 96, 'ipv6'); // loopback, unspecified, IPv4-compatible
PRIVATE_ADDRESSES.addSubnet('::ffff:0:0:0', 96, 'ipv6'); // IPv4-translated
PRIVATE_ADDRESSES.addSubnet('64:ff9b:1::', 48, 'ipv6'); // local NAT64
PRIVATE_ADDRESSES.addSubnet('2001::', 32, 'ipv6'); // Teredo
PRIVATE_ADDRESSES.addSubnet('2002::', 16, 'ipv6'); // 6to4
PRIVATE_ADDRESSES.addSubnet('fc00::', 7, 'ipv6');
PRIVATE_ADDRESSES.addSubnet('fe80::', 9, 'ipv6'); // link-local, site-local
PRIVATE_ADDRESSES.addSubnet('ff00::', 8, 'ipv6'); // multicast

/** Names that are never public. A name without a dot belongs to a local network. */
const PRIVATE_NAME = /^[^.]*\.?$|\.(localhost|local|internal|intranet|lan|home\.arpa)\.?$/i;

/**
 * Returns true if the host name of a URL is a loopback, private, link-local or metadata address, or a name that is
 * never public. Other names are not resolved here. IPv6 addresses may have brackets.
 */
export function isPrivateHost(hostname: string): boolean {
  if (isForbiddenHost(hostname)) return true;
  const address = hostname.replace(/^\[|\]$/g, '');
  const family = isIP(address);
  return family === 0 ? PRIVATE_NAME.test(address) : PRIVATE_ADDRESSES.check(address, family === 4 ? 'ipv4' : 'ipv6');
}
