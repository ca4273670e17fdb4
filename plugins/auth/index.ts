import { randomBytes } from 'node:crypto';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { type Config, RestartRequired } from '../config/index.ts';
import { createApiKeys, isKeyOwner } from './api-keys.ts';
import { ANONYMOUS, type Identity } from './identity.ts';
import { createJwt, KeySetUnavailable } from './jwt.ts';
import { createTickets, MAX_TICKET_MS, newNonce } from './tickets.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /**
     * Who may come in, where keys are configured: with a key or token alone (`api`), with a ticket for
     * one question (`ask`), with a ticket for this stream (`read`). Absent: everybody.
     */
    access?: 'api' | 'ask' | 'read';
  }
  interface FastifyRequest {
    readonly identity: Identity;
  }
  interface FastifyInstance {
    readonly auth: Auth;
  }
}

export interface Auth {
  /** Whether anybody has to say who they are. */
  readonly required: boolean;
  /** A ticket for one question, in at most `ms`. */
  createAskTicket(identity: Identity, model: string | undefined, ms?: number): { ticket: string; expiresAt: Date };
  /** What to put behind a stream's path, so that an EventSource may read it: `?ticket=…`, or nothing. */
  createReadTicketQuery(stream: string, owner: string): string;
}

/** `request.identity`: who asks, by a key, a token, or a ticket. */
export default fp(
  async (fastify) => {
    const { config } = fastify;
    let authenticators = createAuthenticators(config);
    fastify.onConfigReload((config) => {
      const next = createAuthenticators(config);
      // A file that is empty for a moment must not let everybody in.
      if (authenticators.required && !next.required) throw new RestartRequired('a service without keys or tokens');
      authenticators = next;
    });
    const tickets = createTickets(config.ticketSecret ? Buffer.from(config.ticketSecret) : randomBytes(32));
    const longestAnswerMs = Math.max(config.deadlines.totalMs, ...config.models.map(({ totalMs = 0 }) => totalMs));

    fastify.decorateRequest('identity', undefined as unknown as Identity);
    fastify.addHook('onRequest', async (request, reply) => {
      const { access } = request.routeOptions.config;
      const identity = authenticators.required && access ? await identify(request, access) : ANONYMOUS;
      if (identity === undefined) {
        reply.header('www-authenticate', 'Bearer');
        throw fastify.httpErrors.unauthorized('Send Authorization: Bearer with a key or token that is valid here.');
      }
      (request as { identity: Identity }).identity = identity;
    });

    /** The header wins, since a URL may have been copied. */
    async function identify(request: FastifyRequest, access: 'api' | 'ask' | 'read'): Promise<Identity | undefined> {
      const { authorization } = request.headers;
      if (authorization !== undefined) {
        const credentials = /^Bearer ([\x21-\x7e]{1,8192})$/i.exec(authorization)?.[1];
        return credentials === undefined
          ? undefined
          : (authenticators.findByKey(credentials) ?? (await identifyByToken(credentials)));
      }
      const { ticket } = (request.query ?? {}) as { ticket?: unknown };
      return access === 'api' || typeof ticket !== 'string' ? undefined : identifyByTicket(ticket, request, access);
    }

    async function identifyByToken(token: string): Promise<Identity | undefined> {
      try {
        return await authenticators.verifyToken?.(token);
      } catch (error) {
        if (!(error instanceof KeySetUnavailable)) throw error;
        fastify.log.error('the key set of the token issuer cannot be fetched');
        const message = 'Tokens cannot be checked now; ask again later.';
        throw fastify.apiError({ status: 503, code: 'overloaded', message, retryAfterMs: 5_000 });
      }
    }

    function identifyByTicket(text: string, request: FastifyRequest, access: 'ask' | 'read'): Identity | undefined {
      const ticket = tickets.open(text);
      if (ticket === undefined) return undefined;
      const isExpired = ticket.expires <= Date.now();
      // What a key may is looked up anew: it may have been taken back.
      const keyHolder = authenticators.findByOwner(ticket.owner) ?? ticket.claims;
      if (keyHolder === undefined) return undefined;
      if (ticket.kind === 'read') {
        const { id } = (request.params ?? {}) as { id?: string };
        return access === 'read' && ticket.stream === id && !isExpired ? keyHolder : undefined;
      }
      if (access !== 'ask' || (isExpired && !isResuming(request))) return undefined;
      const { model, nonce } = ticket;
      if (model !== undefined && keyHolder.models?.includes(model) === false) return undefined;
      return { ...keyHolder, ...(model !== undefined && { models: [model] }), ticket: nonce, resumeOnly: isExpired };
    }

    /** A token's own claims have to travel with its tickets: nobody else knows them. A key is looked up. */
    const claimsOf = (identity: Identity) => (isKeyOwner(identity.owner) ? {} : { claims: identity });

    const auth: Auth = {
      get required() {
        return authenticators.required;
      },
      createAskTicket(identity, model, ms = MAX_TICKET_MS) {
        // It is good for one question for as long as that question's stream is kept.
        const expires = Date.now() + Math.min(ms, MAX_TICKET_MS, config.streams.ttlMs);
        const { owner } = identity;
        const ticket = tickets.sign({ kind: 'ask', nonce: newNonce(), expires, owner, model, ...claimsOf(identity) });
        if (ticket === undefined) throw fastify.httpErrors.badRequest('This token has too many claims for a ticket.');
        return { ticket, expiresAt: new Date(expires) };
      },
      createReadTicketQuery(stream, owner) {
        if (!authenticators.required) return '';
        const expires = Date.now() + longestAnswerMs + config.streams.ttlMs;
        return `?ticket=${tickets.sign({ kind: 'read', stream, expires, owner, ...claimsOf({ owner }) })}`;
      },
    };
    fastify.decorate('auth', auth);
    warnIfOpen(fastify, authenticators.required);
  },
  { name: 'auth', dependencies: ['config', 'errors'] },
);

function createAuthenticators({ keys, jwt }: Config) {
  return {
    required: keys.length > 0 || jwt !== undefined,
    ...createApiKeys(keys, Date.now),
    verifyToken: jwt && createJwt(jwt),
  };
}

/** An empty one is none, as where the place is read. */
function isResuming({ headers, query }: FastifyRequest): boolean {
  return Boolean(headers['last-event-id'] || (query as { lastEventId?: string }).lastEventId);
}

function warnIfOpen({ config, log }: FastifyInstance, required: boolean): void {
  const isLoopback = config.host === 'localhost' || config.host === '::1' || config.host.startsWith('127.');
  if (required || isLoopback) return;
  log.warn({ host: config.host }, 'anybody who reaches this address can ask: no keys are configured');
}
