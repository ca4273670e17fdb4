import { BlockList, isIP } from 'node:net';

/**
 * Addresses that no provider lives at: link-local ones, and those at which clouds hand out a machine's
 * own credentials. Also in the forms in which IPv6 carries an IPv4 address.
 */
const FORBIDDEN = new BlockList();
FORBIDDEN.addSubnet('169.254.0.0', 16, 'ipv4'); // link-local; AWS, Azure, Google, Oracle
FORBIDDEN.addAddress('100.100.100.200', 'ipv4'); // Alibaba
FORBIDDEN.addAddress('168.63.129.16', 'ipv4'); // Azure's own
FORBIDDEN.addSubnet('fe80::', 10, 'ipv6');
FORBIDDEN.addAddress('fd00:ec2::254', 'ipv6'); // AWS
FORBIDDEN.addAddress('fd20:ce::254', 'ipv6'); // Google
FORBIDDEN.addAddress('fd00:c1::a9fe:a9fe', 'ipv6'); // Oracle
FORBIDDEN.addAddress('192.0.0.192', 'ipv4'); // Oracle
// 6to4, NAT64, and the old ways to carry an IPv4 address
for (const carried of ['a9fe', '6464', 'a83f']) FORBIDDEN.addSubnet(`2002:${carried}::`, 32, 'ipv6');
for (const prefix of ['64:ff9b::', '::', '::ffff:0:']) {
  FORBIDDEN.addSubnet(`${prefix}a9fe:0`, 112, 'ipv6');
  FORBIDDEN.addAddress(`${prefix}6464:64c8`, 'ipv6');
}

/** Whether a host name is an address that is forbidden; a name is looked up only when it is connected to. */
export function isForbiddenHost(hostname: string): boolean {
  const address = hostname.replace(/^\[|\]$/g, '');
  const family = isIP(address);
  if (family !== 0) return FORBIDDEN.check(address, family === 4 ? 'ipv4' : 'ipv6');
  return /^metadata(\.google\.internal)?$/i.test(address);
}
