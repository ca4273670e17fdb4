import cors from '@fastify/cors';
import fp from 'fastify-plugin';

/** Lets the pages of `corsOrigins` call. Without any, only pages of the same origin can. */
export default fp(
  async (fastify) => {
    const { corsOrigins } = fastify.config;
    await fastify.register(cors, {
      origin: corsOrigins.includes('*') ? '*' : corsOrigins,
      methods: ['GET', 'POST', 'DELETE'],
      exposedHeaders: ['location', 'retry-after', 'x-request-id', 'x-sluice-stream'],
      maxAge: 86_400,
    });
  },
  { name: 'cors', dependencies: ['config'] },
);
