import { lookup } from 'node:dns/promises';
import { isPrivateHost } from '../addresses.ts';
import { ProviderError } from '../errors.ts';
import type { ChatRequest } from '../types.ts';

/**
 * Checks the URLs of images and files in a question before a self-hosted provider fetches them. The provider resolves
 * the names again and may follow redirects, so its own network access must be limited, too.
 */

/** Returns all addresses of a host name. Rejects if `signal` has aborted before the lookup begins. */
export type LookupAddresses = (hostname: string, signal: AbortSignal) => Promise<readonly string[]>;

/** Lookups at once. Each holds one of the four threads that Node has for files and names, and clients choose the names. */
const MAX_LOOKUPS = 2;
/** Lookups that wait. Further ones fail. */
const MAX_WAITING_LOOKUPS = 1_000;

/** Limits the lookups that run and wait at the same time. */
export function limitLookups(lookUp: LookupAddresses): LookupAddresses {
  const waiting: (() => void)[] = [];
  let running = 0;
  return async (hostname, signal) => {
    if (waiting.length >= MAX_WAITING_LOOKUPS) throw new Error('too many lookups');
    if (running < MAX_LOOKUPS) running += 1;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      signal.throwIfAborted();
      return await lookUp(hostname, signal);
    } finally {
      const next = waiting.shift();
      if (next === undefined) running -= 1;
      else next();
    }
  };
}

const lookupByDns = limitLookups(async (hostname) =>
  (await lookup(hostname, { all: true })).map(({ address }) => address),
);

/**
 * Checks the URLs of a request; returns undefined if it has none.
 * @throws ProviderError for a URL whose host is private or cannot be resolved; the abort error if `signal` aborts
 */
export function checkUrls(
  { messages }: ChatRequest,
  signal: AbortSignal,
  lookupAddresses: LookupAddresses = lookupByDns,
): Promise<void> | undefined {
  const hosts = new Set<string>();
  for (const { role, content } of messages) {
    if (role !== 'user' || typeof content === 'string') continue;
    for (const block of content) {
      if (block.type !== 'text' && !/^data:/i.test(block.url)) hosts.add(hostOf(block.url));
    }
  }
  return hosts.size === 0 ? undefined : checkHosts([...hosts], signal, lookupAddresses);
}

/** Returns the host name of a URL; empty if the URL is not valid. */
function hostOf(url: string): string {
  return URL.canParse(url) ? new URL(url).hostname : '';
}

async function checkHosts(hosts: readonly string[], signal: AbortSignal, lookupAddresses: LookupAddresses) {
  if (hosts.some((host) => isPrivateHost(host))) throw privateUrlError();
  let onAbort = () => {};
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal.reason);
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
  // A client chooses the names, so a failed lookup says nothing about the provider.
  const lookups = hosts.map((host) => lookupAddresses(host, signal).catch(() => []));
  try {
    const found = await Promise.race([Promise.all(lookups), aborted]);
    if (found.some((addresses) => addresses.length === 0 || addresses.some(isPrivateHost))) throw privateUrlError();
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** Returns the error for a URL that the provider must not fetch. */
function privateUrlError(): ProviderError {
  return new ProviderError('upstream_rejected', {
    reason: 'private_url',
    refusal: 'invalid_parameter',
    param: 'messages',
    problem: 'messages: the host of an image or file URL is private or cannot be resolved',
    retryable: false,
    upstreamStatus: 400,
  });
}
