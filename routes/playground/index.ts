import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import helmet from '@fastify/helmet';
import fastifyStatic from '@fastify/static';
import type { FastifyPluginAsync } from 'fastify';
import { PAGE_POLICY } from '../page-policy.ts';

/** The playground at `/`: static files, and two libraries from npm. */

const PAGE = fileURLToPath(new URL('./page/', import.meta.url));

const VENDOR = { 'marked.js': 'marked', 'purify.js': 'dompurify' };

const playground: FastifyPluginAsync = async (fastify) => {
  await fastify.register(helmet, {
    contentSecurityPolicy: PAGE_POLICY,
    // The gateway terminates TLS.
    strictTransportSecurity: false,
  });
  await fastify.register(fastifyStatic, {
    root: PAGE,
    prefix: '/',
    wildcard: false,
    cacheControl: false,
    setHeaders: (reply) => void reply.setHeader('cache-control', 'no-cache'),
    logLevel: 'silent',
    schemaHide: true,
  });
  for (const [name, specifier] of Object.entries(VENDOR)) {
    const file = fileURLToPath(import.meta.resolve(specifier));
    const options = { schema: { hide: true }, logLevel: 'silent', exposeHeadRoute: true } as const;
    fastify.get(`/vendor/${name}`, options, (_, reply) =>
      reply.type('text/javascript; charset=utf-8').sendFile(file.slice(dirname(file).length + 1), dirname(file)),
    );
  }
};

export default playground;
