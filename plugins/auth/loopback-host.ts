import fp from 'fastify-plugin';

export interface LoopbackHostOptions {
  /** Address to listen on. */
  readonly host: string;
  /** Origins whose pages may call; their hosts are accepted too. */
  readonly origins: readonly string[];
}

/**
 * Protects a service on loopback without keys, which trusts everybody who reaches it, against DNS rebinding: a page
 * of another site whose name resolves to 127.0.0.1 is of the same origin for the browser, but sends its own name as
 * `Host`. So only loopback names are accepted there.
 */
export default fp<LoopbackHostOptions>(
  async (fastify, { host, origins }) => {
    if (!isLoopback(host) || origins.includes('*')) return;
    const otherHosts = new Set(
      origins.filter((origin) => /^https?:/.test(origin)).map((origin) => new URL(origin).hostname),
    );
    fastify.addHook('onRequest', async ({ raw }) => {
      const name = raw.headers.host;
      // HTTP/1.0 may have none. No browser sends it.
      if (name === undefined || fastify.auth.required) return;
      const hostname = URL.canParse(`http://${name}`) ? new URL(`http://${name}`).hostname : '';
      if (isLoopback(hostname.replace(/^\[|\]$/g, '')) || otherHosts.has(hostname)) return;
      throw fastify.httpErrors.forbidden(
        'Without keys, this service accepts only loopback names as Host; use localhost, configure keys, or list the origin in CORS_ORIGINS.',
      );
    });
  },
  { name: 'loopback-host', dependencies: ['auth', 'errors'] },
);

/** Returns true for a name or an address that leads to this machine. IPv6 addresses have no brackets. */
export function isLoopback(host: string): boolean {
  return /^(localhost|.+\.localhost|127(\.\d{1,3}){3}|::1)$/i.test(host);
}
