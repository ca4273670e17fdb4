import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import helmet from '@fastify/helmet';
import fastifyStatic from '@fastify/static';
import type { FastifyPluginAsync } from 'fastify';

/** The playground at `/`: static files, and two libraries from npm. */

const PAGE = fileURLToPath(new URL('./page/', import.meta.url));

const VENDOR = { 'marked.js': 'marked', 'purify.js': 'dompurify' };

/** Forbids content from other sites, inline scripts and styles, and frames around this page. */
const CSP = {
  useDefaults: false,
  directives: {
    defaultSrc: ["'none'"],
    scriptSrc: ["'self'"],
    styleSrc: ["'self'"],
    imgSrc: ["'self'"],
    connectSrc: ["'self'"],
    baseUri: ["'none'"],
    formAction: ["'none'"],
    frameAncestors: ["'none'"],
  },
};

const playground: FastifyPluginAsync = async (fastify) => {
  await fastify.register(helmet, {
    contentSecurityPolicy: CSP,
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
