import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import helmet from '@fastify/helmet';
import fastifyStatic from '@fastify/static';
import type { FastifyPluginAsync } from 'fastify';

/** The page that people try first, at `/`: static files, and two libraries as npm has them. */

const PAGE = fileURLToPath(new URL('./page/', import.meta.url));

const VENDOR = { 'marked.js': 'marked', 'purify.js': 'dompurify' };

/** Nothing comes from anywhere else, nothing inline runs, and no page holds this one in a frame. */
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
    // TLS is the gateway's.
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
