import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox';
import { ModelName } from '../chat-request.ts';

const TicketBody = Type.Object(
  {
    model: Type.Optional(ModelName),
    seconds: Type.Optional(Type.Integer({ minimum: 1, maximum: 60, description: 'How long it may start a question' })),
  },
  { additionalProperties: false },
);

/** A page's own backend, which has a key, gets a ticket for the page, whose EventSource can send none. */
const tickets: FastifyPluginAsyncTypebox = async (fastify) => {
  fastify.post(
    '/tickets',
    { config: { access: 'api' }, schema: { body: TicketBody } },
    async ({ body, identity }, reply) => {
      const { model, seconds = 60 } = body;
      if (model !== undefined && !fastify.auth.mayUseModel(identity, fastify.llm.route(model).name)) {
        throw fastify.httpErrors.forbidden('This key may not use this model.');
      }
      const { ticket, expiresAt } = fastify.auth.createAskTicket(
        identity,
        model && fastify.llm.route(model).name,
        seconds * 1000,
      );
      reply.code(201).header('cache-control', 'no-store');
      return { ticket, expiresAt: expiresAt.toISOString() };
    },
  );
};

export default tickets;
