import helmet from '@fastify/helmet';
import swaggerUi from '@fastify/swagger-ui';
import type { FastifyPluginAsync } from 'fastify';

/** API reference: `/openapi.json` for tools, `/docs` for people. The page loads nothing from other sites. */
const docs: FastifyPluginAsync = async (fastify) => {
  const hidden = { schema: { hide: true }, exposeHeadRoute: true, logLevel: 'silent' } as const;
  fastify.get('/openapi.json', hidden, async (_, reply) => {
    reply.header('cache-control', 'no-cache');
    return fastify.swagger();
  });
  await fastify.register(async (page) => {
    await page.register(helmet, { contentSecurityPolicy: false, strictTransportSecurity: false });
    await page.register(swaggerUi, {
      routePrefix: '/docs',
      staticCSP: true,
      logLevel: 'silent',
      theme: { title: 'Sluice API' },
      uiConfig: { docExpansion: 'list', deepLinking: true, tryItOutEnabled: false },
    });
  });
};

export default docs;
