import { lookup } from 'node:dns';
import type { LookupFunction } from 'node:net';
import { isForbiddenHost } from '../addresses.ts';
import { ProviderError } from '../errors.ts';

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
