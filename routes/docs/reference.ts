import swagger from '@fastify/swagger';
import type { FastifySchema } from 'fastify';
import fp from 'fastify-plugin';

const DESCRIPTION =
  'Streams answers of language models over Server-Sent Events. Streams can be resumed, shared and stopped. Reconnecting never asks the model again.';

const securitySchemes = {
  key: { type: 'http', scheme: 'bearer', description: 'API key or JWT' },
  ticket: {
    type: 'apiKey',
    in: 'query',
    name: 'ticket',
    description: 'For clients that cannot send headers, such as EventSource',
  },
} as const;

/** Adds `fastify.swagger()`: the OpenAPI document of all routes that are registered after this plugin. */
export default fp(
  async (fastify) => {
    const { basePath } = fastify.config;
    await fastify.register(swagger, {
      openapi: {
        // 3.2 is the first version that can describe the events of a stream: by `itemSchema`.
        openapi: '3.2.0',
        info: { title: 'Sluice', version: '1', description: DESCRIPTION, license: { name: 'MIT', identifier: 'MIT' } },
        servers: [{ url: basePath || '/' }],
        components: { securitySchemes },
      },
      // Keeps the names of shared schemas. By default they would be `def-0`, `def-1` …
      refResolver: { buildLocalReference: ({ $id }, _uri, _fragment, i) => String($id ?? `def-${i}`) },
      transform({ schema, url, route: { method } }) {
        const path = url.replace('*', '{id}');
        const words = `${method} ${path.slice(basePath.length)}`.toLowerCase().match(/[a-z0-9]+/g) ?? [];
        const operationId = words.join('_');
        return { url: path, schema: { ...schema, params: nameWildcard(schema?.params), operationId } };
      },
    });
  },
  { name: 'reference', dependencies: ['config'] },
);

/** OpenAPI has no wildcards, so the `*` of a path is documented as the parameter `id`. */
function nameWildcard(params: FastifySchema['params']) {
  const { properties } = (params ?? {}) as { properties?: Record<string, object> };
  const wildcard = properties?.['*'];
  return wildcard ? { type: 'object', properties: { id: wildcard }, required: ['id'] } : params;
}
