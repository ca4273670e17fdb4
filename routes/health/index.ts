import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox';
import { errorResponses, jsonResponse, PUBLIC } from '../responses.ts';

const Liveness = Type.Object({ status: Type.Literal('ok') });

const Readiness = Type.Object({
  status: Type.Union([Type.Literal('ok'), Type.Literal('unavailable')]),
  targets: Type.Optional(
    Type.Array(
      Type.Object({
        provider: Type.String(),
        model: Type.String({ description: "The provider's own name of the model" }),
        state: Type.Union([Type.Literal('closed'), Type.Literal('half_open'), Type.Literal('open')]),
      }),
      { description: 'With `?verbose`: circuit breakers of the targets whose last call failed' },
    ),
  ),
});

/** Probes. */
const health: FastifyPluginAsyncTypebox = async (fastify) => {
  const options = { exposeHeadRoute: true, logLevel: 'silent', config: { isEssential: true, isProbe: true } } as const;

  fastify.get(
    '/livez',
    {
      ...options,
      schema: {
        tags: ['Operation'],
        summary: 'Check that the process responds',
        security: PUBLIC,
        response: { 200: jsonResponse(Liveness, 'The process responds.'), ...errorResponses() },
      },
    },
    async (_, reply) => {
      reply.header('cache-control', 'no-store');
      return { status: 'ok' } as const;
    },
  );

  fastify.get(
    '/readyz',
    {
      ...options,
      schema: {
        tags: ['Operation'],
        summary: 'Check that this replica accepts questions',
        security: PUBLIC,
        querystring: Type.Object({
          verbose: Type.Optional(Type.Unknown({ description: 'If present, `targets` shows circuit breakers.' })),
        }),
        response: {
          200: jsonResponse(Readiness, 'A gateway may send questions to this replica.'),
          ...errorResponses(),
          503: jsonResponse(Readiness, 'The replica is starting or draining, or a required Redis is unavailable.'),
        },
      },
    },
    async ({ query }, reply) => {
      const { ready } = fastify.lifecycle;
      reply.header('cache-control', 'no-store').code(ready ? 200 : 503);
      const status = ready ? 'ok' : 'unavailable';
      return 'verbose' in query ? { status, targets: [...fastify.llm.targets()] } : { status };
    },
  );
};

export default health;
