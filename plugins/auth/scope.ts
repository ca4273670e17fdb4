import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { Access } from './identity.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Credentials that the route accepts. Required in the api scope. */
    access?: Access;
  }
}

type PublicError = Parameters<FastifyInstance['apiError']>[0];
type Events = Parameters<FastifyReply['stream']>[0];

export interface AuthScopeOptions {
  /** Returns the response to an EventSource that is refused; undefined if it gets the status, as other clients do. */
  refusalEvents?(error: PublicError, request: FastifyRequest): Events | undefined;
}

/**
 * Authenticates every request of the scope in which it is registered, and counts failures against the limit of the
 * client's address. A route there without `config.access` fails the start, so that no route is public by mistake.
 *
 * Beyond the limit, a failure is 429. An EventSource gets 401 all the same if its credentials were checked: a retry
 * would not help, and a browser takes both as final. If they were not checked, it gets the refusal as an event.
 */
export default fp<AuthScopeOptions>(
  async (scope, { refusalEvents = () => undefined }) => {
    scope.addHook('onRoute', ({ method, url, config }) => {
      if (config?.access === undefined) throw new Error(`route ${method} ${url} declares no config.access`);
    });

    scope.addHook('onRequest', async (request, reply) => {
      try {
        await scope.auth.authenticate(request, reply);
      } catch (error) {
        return refuse(error as Refusal, request, reply);
      }
    });

    function refuse(error: Refusal, request: FastifyRequest, reply: FastifyReply): FastifyReply {
      const { statusCode: status, code = '', message, retryAfterMs } = error;
      const isFinal = status === 401;
      const waitMs = isFinal ? scope.addressLimit.count(request) : retryAfterMs;
      if (!waitMs) throw error;
      const events = refusalEvents({ status, code, message, retryAfterMs }, request);
      if (isFinal && events === undefined) {
        reply.removeHeader('www-authenticate');
        throw scope.addressLimit.refusal(request, waitMs);
      }
      if (isFinal || events === undefined) throw error;
      return reply.stream(events);
    }
  },
  { name: 'auth-scope', dependencies: ['auth'] },
);

/** An error of `authenticate`. */
interface Refusal extends Error {
  readonly statusCode: number;
  readonly code?: string;
  readonly retryAfterMs?: number;
}
