import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox';
import { ModelName } from '../chat-request.ts';
import { API_ERRORS, BODY_ERRORS, errorResponses, jsonResponse, KEY } from '../responses.ts';

const TicketBody = Type.Object(
  {
    model: Type.Optional(ModelName),
    seconds: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 60, description: 'Time in which the ticket may start a question' }),
    ),
  },
  { additionalProperties: false },
);

const TicketResponse = Type.Object({
  ticket: Type.String({ description: 'Value of `?ticket=`' }),
  expiresAt: Type.String({
    format: 'date-time',
    description: 'Resuming its own stream stays possible after this, while the key or token is valid',
  }),
});

/** Gives tickets to backends that have a key, for pages whose EventSource cannot send one. */
const tickets: FastifyPluginAsyncTypebox = async (fastify) => {
  fastify.post(
    '/tickets',
    {
      config: { access: 'api', hasOptionalBody: true },
      schema: {
        tags: ['Identity'],
        summary: 'Get a ticket with which an EventSource may ask one question',
        security: KEY,
        body: TicketBody,
        response: {
          201: jsonResponse(TicketResponse, 'The ticket'),
          ...errorResponses(...BODY_ERRORS, ...API_ERRORS, 404),
        },
      },
    },
    async ({ body, identity, log }, reply) => {
      const { model, seconds = 60 } = body;
      const route = model === undefined ? undefined : fastify.llm.route(model, identity);
      const name = route?.name;
      if (route !== undefined && !fastify.auth.mayUseModel(identity, route.name)) {
        fastify.audit.modelRefused(log, identity.owner, route.label);
        throw fastify.httpErrors.forbidden('This key may not use this model.');
      }
      const { ticket, expiresAt } = fastify.auth.createAskTicket(identity, name, seconds * 1000);
      reply.code(201).header('cache-control', 'no-store');
      return { ticket, expiresAt: expiresAt.toISOString() };
    },
  );
};

export default tickets;
