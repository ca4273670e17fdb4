import { randomBytes } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { RestartRequired } from '../config/index.ts';
import { type CallerSettings, createAuthenticators } from './authenticators.ts';
import { type Access, ANONYMOUS, type Identity, mayUseModel, type Quota } from './identity.ts';
import { createKeySets, KeySetUnavailable } from './key-set.ts';
import { isLoopback } from './loopback-host.ts';
import { createKeyRefusals, isRefusal, type Refusal } from './refusals.ts';
import { type Credential, createCredentials } from './revocation.ts';
import { createTicketCheck } from './ticket-check.ts';
import { type AskTicketOptions, createTicketIssuer } from './ticket-issuer.ts';
import { createTickets } from './tickets.ts';
import { createTokenCheck } from './token-check.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** The caller. Set on every route of the api scope. */
    readonly identity: Identity;
  }
  interface FastifyInstance {
    readonly auth: Auth;
  }
}

export interface Auth {
  /** True if callers must authenticate: keys or tokens are configured. */
  readonly required: boolean;
  /**
   * Sets `request.identity` by key, token or ticket, as the route's `config.access` allows. A hook for `onRequest`.
   * @throws 401 for credentials that are missing or not valid, 429 for a token of an address beyond its limit, 503 if
   * the issuer's key set cannot be fetched
   */
  authenticate(request: FastifyRequest, reply: FastifyReply): Promise<void>;
  /** Returns true if the request has a valid API key, whatever its route. */
  hasKey(request: FastifyRequest): boolean;
  /** Returns true if the caller may use the model with this public name. */
  mayUseModel(identity: Identity, model: string): boolean;
  /** Returns the identity of a visitor of the caller, by the name that the caller has chosen. */
  findVisitor(identity: Identity, visitor: string, limits?: Quota): Identity;
  /** Creates a ticket that starts questions. @throws 400 if it would be too long */
  createAskTicket(identity: Identity, options?: AskTicketOptions): { ticket: string; expiresAt: Date };
  /**
   * Returns the query that lets an EventSource of the caller read a stream: `?ticket=…`, or an empty string if none is
   * needed.
   */
  createReadTicketQuery(stream: string, identity: Identity): string;
  /** Returns the accepted credential with a mark; undefined if there is none. Without keys and tokens callers have one, too. */
  findCredential(mark: string | undefined): Credential | undefined;
}

export interface AuthOptions extends CallerSettings {
  /** Signs tickets; random per process if absent. */
  readonly ticketSecret?: string | undefined;
  /** Address to listen on: an open service off loopback logs a warning. */
  readonly host: string;
  /** Longest time in milliseconds that an answer may take; read tickets are valid for longer. */
  longestAnswerMs(): number;
  /** Milliseconds for which an ended stream stays readable. */
  readonly streamTtlMs: number;
}

/** Adds `fastify.auth` and `request.identity`. `scope.ts` puts the authentication hook in front of routes. */
export default fp<AuthOptions>(
  async (fastify, { ticketSecret, host, longestAnswerMs, streamTtlMs, ...callers }) => {
    const findKeySet = createKeySets({ now: fastify.clock.now, log: fastify.log });
    const tickets = createTickets(ticketSecret ? Buffer.from(ticketSecret) : randomBytes(32));
    const credentials = createCredentials({ clock: fastify.clock, now: Date.now, log: fastify.log });
    fastify.addHook('onClose', async () => credentials.close());
    const checkToken = createTokenCheck(fastify.addressLimit);
    const issuer = createTicketIssuer({
      tickets,
      badRequest: fastify.httpErrors.badRequest,
      longestAnswerMs,
      streamTtlMs,
    });
    const checkTicket = createTicketCheck({ authenticators: () => authenticators, longestAnswerMs, streamTtlMs });
    const authenticatorOptions = { credentials, findKeySet, markOf: tickets.markOf };
    let authenticators = createAuthenticators(callers, authenticatorOptions);
    authenticators.apply();
    const keyRefusals = createKeyRefusals();
    keyRefusals.configure(callers.keys);
    fastify.onConfigReload((config) => {
      const next = createAuthenticators(config, authenticatorOptions);
      // A configuration file that is empty for a moment must not open the service.
      if (authenticators.required && !next.required) throw new RestartRequired('a service without keys or tokens');
      authenticators = next;
      next.apply();
      keyRefusals.configure(config.keys);
    });
    fastify.decorateRequest('identity', undefined as unknown as Identity);

    async function authenticate(request: FastifyRequest, reply: FastifyReply): Promise<void> {
      const { access = 'api' } = request.routeOptions.config;
      const identity =
        access === 'public' || request.is404
          ? ANONYMOUS
          : authenticators.required
            ? await identify(request, access)
            : authenticators.anonymous(request);
      if (isRefusal(identity)) {
        fastify.audit.credentialsRefused(request, identity);
        reply.header('www-authenticate', 'Bearer');
        throw fastify.httpErrors.unauthorized('Send a valid key or token as Authorization: Bearer.');
      }
      (request as { identity: Identity }).identity = identity;
    }

    /** The header takes precedence, because the URL may have been copied with a ticket of another caller. */
    async function identify(request: FastifyRequest, access: Access): Promise<Identity | Refusal> {
      const { authorization } = request.headers;
      if (authorization !== undefined) {
        const sent = credentialsOf(request);
        if (sent === undefined) return { reason: 'malformed' };
        const holder = authenticators.findByKey(sent);
        if (holder) return holder;
        const ticket = tickets.open(sent);
        return ticket ? checkTicket(ticket, request, access) : identifyByToken(sent, request);
      }
      const { ticket } = (request.query ?? {}) as { ticket?: unknown };
      if (access === 'api' || typeof ticket !== 'string') return { reason: 'missing' };
      return checkTicket(tickets.open(ticket), request, access);
    }

    async function identifyByToken(token: string, request: FastifyRequest): Promise<Identity | Refusal> {
      const { verifyToken } = authenticators;
      if (verifyToken === undefined) return keyRefusals.explain(token);
      try {
        const result = await checkToken(token, request, verifyToken);
        // What is no token may be a key.
        return isRefusal(result) && result.reason === 'malformed' ? keyRefusals.explain(token) : result;
      } catch (error) {
        if (!(error instanceof KeySetUnavailable)) throw error;
        const message = 'Tokens cannot be verified now; retry later.';
        throw fastify.apiError({ status: 503, code: 'overloaded', message, retryAfterMs: 5_000 });
      }
    }

    fastify.decorate('auth', {
      get required() {
        return authenticators.required;
      },
      authenticate,
      hasKey(request: FastifyRequest) {
        const credentials = credentialsOf(request);
        return credentials !== undefined && authenticators.findByKey(credentials) !== undefined;
      },
      mayUseModel,
      findVisitor: issuer.findVisitor,
      createAskTicket: issuer.createAskTicket,
      createReadTicketQuery: (stream, identity) =>
        authenticators.required ? issuer.createReadTicketQuery(stream, identity) : '',
      findCredential: (mark: string | undefined) => authenticators.findCredential(mark),
    });

    if (!authenticators.required && !isLoopback(host)) {
      fastify.log.warn({ host }, 'no keys configured; everybody who reaches this address can ask');
    }
  },
  { name: 'auth', dependencies: ['audit', 'clock', 'config', 'errors', 'address-limit'] },
);

/** Returns the key or token of the `Authorization` header. */
function credentialsOf({ headers }: FastifyRequest): string | undefined {
  return /^Bearer ([\x21-\x7e]{1,8192})$/i.exec(headers.authorization ?? '')?.[1];
}
