import helmet from '@fastify/helmet';
import swaggerUi from '@fastify/swagger-ui';
import type { FastifyPluginAsync } from 'fastify';
import { PAGE_POLICY } from '../page-policy.ts';

/** The style sheet of Swagger UI contains its icons as `data:` URLs. */
const POLICY = {
  ...PAGE_POLICY,
  directives: { ...PAGE_POLICY.directives, imgSrc: ["'self'", 'data:'] },
};

/** API reference: `/openapi.json` for tools, `/docs` for people. The page loads nothing from other sites. */
const docs: FastifyPluginAsync = async (fastify) => {
  const hidden = { schema: { hide: true }, exposeHeadRoute: true, logLevel: 'silent' } as const;
  fastify.get('/openapi.json', hidden, async (_, reply) => {
    reply.header('cache-control', 'no-cache');
    return fastify.swagger();
  });
  await fastify.register(async (page) => {
    await page.register(helmet, { contentSecurityPolicy: POLICY, strictTransportSecurity: false });
    await page.register(swaggerUi, {
      routePrefix: '/docs',
      logLevel: 'silent',
      theme: { title: 'Sluice API' },
      uiConfig: { docExpansion: 'list', deepLinking: true, tryItOutEnabled: false },
    });
  });
};

export default docs;
