import swagger from '@fastify/swagger';
import fp from 'fastify-plugin';
import { COMPONENTS, complete, type Document } from './document.ts';

const DESCRIPTION =
  'Streaming answers of language models over Server-Sent Events. Streams can be resumed, shared and stopped; no question is asked twice.';

/** `fastify.swagger()`: the reference of every route that is registered from here on, in the form of OpenAPI. */
export default fp(
  async (fastify) => {
    const { basePath } = fastify.config;
    await fastify.register(swagger, {
      openapi: {
        openapi: '3.1.0',
        info: { title: 'Sluice', version: '1', description: DESCRIPTION, license: { name: 'MIT', identifier: 'MIT' } },
        servers: [{ url: '/' }],
        components: COMPONENTS as object,
      },
      // Files and 405s are nothing to call.
      transform: ({ schema, url }) => {
        const isWildcard = url.endsWith('/v1/models/*');
        const params = { type: 'object', properties: { id: { type: 'string' } }, required: ['id'] };
        return isWildcard ? { schema: { ...schema, params }, url: url.replace('*', ':id') } : { schema, url };
      },
      transformObject: (made) => {
        if (!('openapiObject' in made)) return {};
        return complete(made.openapiObject as Document, basePath) as typeof made.openapiObject;
      },
    });
  },
  { name: 'reference', dependencies: ['config'] },
);
