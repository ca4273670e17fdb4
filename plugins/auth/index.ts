import { randomBytes } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { JWTVerifyGetKey } from 'jose';
import { type Config, RestartRequired } from '../config/index.ts';
import { createApiKeys, isKeyOwner } from './api-keys.ts';
import { createAnonymous, createTokenDefaults, withKeyDefaults } from './defaults.ts';
import { type Access, ANONYMOUS, type Identity, mayUseModel } from './identity.ts';
import { createJwt } from './jwt.ts';
import { createKeySets, KeySetUnavailable } from './key-set.ts';
import { isLoopback } from './loopback-host.ts';
import { createTickets, MAX_TICKET_MS, newNonce } from './tickets.ts';
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
  /**
   * Creates a ticket that starts one question within `ms` milliseconds, at most 60,000.
   * @throws 400 if a token has too many claims for a ticket
   */
  createAskTicket(identity: Identity, model: string | undefined, ms?: number): { ticket: string; expiresAt: Date };
  /** Returns the query that lets an EventSource read a stream: `?ticket=…`, or an empty string if none is needed. */
  createReadTicketQuery(stream: string, owner: string): string;
}

interface Credentials {
  readonly keys: Config['keys'];
  readonly keyDefaults?: Config['keyDefaults'] | undefined;
  readonly jwt?: Config['jwt'] | undefined;
  /** Limits of callers of a service without keys and tokens. */
  readonly anonymous?: Config['anonymous'] | undefined;
}

export interface AuthOptions extends Credentials {
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
  async (fastify, { ticketSecret, host, longestAnswerMs, streamTtlMs, ...credentials }) => {
    const findKeySet = createKeySets({ now: fastify.clock.now, log: fastify.log });
    const checkToken = createTokenCheck(fastify.addressLimit);
    let authenticators = createAuthenticators(credentials, findKeySet);
    fastify.onConfigReload((config) => {
      const next = createAuthenticators(config, findKeySet);
      // A configuration file that is empty for a moment must not open the service.
      if (authenticators.required && !next.required) throw new RestartRequired('a service without keys or tokens');
      authenticators = next;
    });
    const tickets = createTickets(ticketSecret ? Buffer.from(ticketSecret) : randomBytes(32));
    fastify.decorateRequest('identity', undefined as unknown as Identity);

    async function authenticate(request: FastifyRequest, reply: FastifyReply): Promise<void> {
      const { access = 'api' } = request.routeOptions.config;
      const identity =
        access === 'public' || request.is404
          ? ANONYMOUS
          : authenticators.required
            ? await identify(request, access)
            : authenticators.anonymous(request);
      if (identity === undefined) {
        reply.header('www-authenticate', 'Bearer');
        throw fastify.httpErrors.unauthorized('Send a valid key or token as Authorization: Bearer.');
      }
      (request as { identity: Identity }).identity = identity;
    }

    /** The header takes precedence, because the URL may have been copied with a ticket of another caller. */
    async function identify(request: FastifyRequest, access: Access): Promise<Identity | undefined> {
      const { authorization } = request.headers;
      if (authorization !== undefined) {
        const credentials = credentialsOf(request);
        if (credentials === undefined) return undefined;
        return authenticators.findByKey(credentials) ?? (await identifyByToken(credentials, request));
      }
      const { ticket } = (request.query ?? {}) as { ticket?: unknown };
      return access === 'api' || typeof ticket !== 'string' ? undefined : identifyByTicket(ticket, request, access);
    }

    async function identifyByToken(token: string, request: FastifyRequest): Promise<Identity | undefined> {
      const { verifyToken } = authenticators;
      if (verifyToken === undefined) return undefined;
      try {
        return await checkToken(token, request, verifyToken);
      } catch (error) {
        if (!(error instanceof KeySetUnavailable)) throw error;
        const message = 'Tokens cannot be verified now; retry later.';
        throw fastify.apiError({ status: 503, code: 'overloaded', message, retryAfterMs: 5_000 });
      }
    }

    function identifyByTicket(text: string, request: FastifyRequest, access: Access): Identity | undefined {
      const ticket = tickets.open(text);
      if (ticket === undefined) return undefined;
      const now = Date.now();
      const isExpired = ticket.expires <= now;
      // Permissions are looked up again, because the key may have been revoked.
      const { claims, owner, keyMark } = ticket;
      const keyHolder = claims ? authenticators.withDefaults(claims) : authenticators.findByOwner(owner, keyMark);
      if (keyHolder === undefined) return undefined;
      if (ticket.kind === 'read') {
        const { id } = (request.params ?? {}) as { id?: string };
        if (access !== 'read' || ticket.stream !== id || isExpired) return undefined;
        return { ...keyHolder, guesser: guesserOf(`stream:${id}`) };
      }
      // A stream that the ticket has started has ended by then, and is no longer kept.
      const isTooOld = ticket.expires + longestAnswerMs() + streamTtlMs <= now;
      if (access !== 'ask' || isTooOld || (isExpired && !isResuming(request))) return undefined;
      const { model, nonce } = ticket;
      if (model !== undefined && !mayUseModel(keyHolder, model)) return undefined;
      return {
        ...keyHolder,
        ...(model !== undefined && { models: [model] }),
        ticket: nonce,
        guesser: guesserOf(`ticket:${nonce}`),
        resumeOnly: isExpired,
      };
    }

    /** Tickets of a token carry its claims, because the service stores no tokens. Keys are looked up. */
    const claimsOf = (identity: Identity) =>
      isKeyOwner(identity.owner)
        ? { keyMark: authenticators.markOf(identity.owner) }
        : { claims: identity.claims ?? identity };

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
      createAskTicket(identity: Identity, model: string | undefined, ms = MAX_TICKET_MS) {
        // A ticket stands for one question only as long as the stream of that question is kept.
        const expires = Date.now() + Math.min(ms, MAX_TICKET_MS, streamTtlMs);
        const { owner } = identity;
        const ticket = tickets.sign({ kind: 'ask', nonce: newNonce(), expires, owner, model, ...claimsOf(identity) });
        if (ticket === undefined) throw fastify.httpErrors.badRequest('This token has too many claims for a ticket.');
        return { ticket, expiresAt: new Date(expires) };
      },
      createReadTicketQuery(stream: string, owner: string) {
        if (!authenticators.required) return '';
        const expires = Date.now() + longestAnswerMs() + streamTtlMs;
        return `?ticket=${tickets.sign({ kind: 'read', stream, expires, owner, ...claimsOf({ owner }) })}`;
      },
    });

    if (!authenticators.required && !isLoopback(host)) {
      fastify.log.warn({ host }, 'no keys configured; everybody who reaches this address can ask');
    }
  },
  { name: 'auth', dependencies: ['clock', 'config', 'errors', 'address-limit'] },
);

function createAuthenticators(
  { keys, keyDefaults, jwt, anonymous }: Credentials,
  findKeySet: (url: string) => JWTVerifyGetKey,
) {
  const verify = jwt && createJwt(jwt, findKeySet);
  const withDefaults = createTokenDefaults(jwt);
  return {
    required: keys.length > 0 || jwt !== undefined,
    ...createApiKeys(withKeyDefaults(keys, keyDefaults), Date.now),
    withDefaults,
    verifyToken:
      verify &&
      (async (token: string) => {
        const claims = await verify(token);
        return claims && withDefaults(claims);
      }),
    anonymous: createAnonymous(anonymous),
  };
}

/** Returns the key or token of the `Authorization` header. */
function credentialsOf({ headers }: FastifyRequest): string | undefined {
  return /^Bearer ([\x21-\x7e]{1,8192})$/i.exec(headers.authorization ?? '')?.[1];
}

/** Requests for unknown streams per minute that one ticket may make. A page makes one. */
const GUESSES_PER_MINUTE = 10;

function guesserOf(owner: string): Identity {
  return { owner, requestsPerMinute: GUESSES_PER_MINUTE };
}

/** Returns true if the request has a resume point. An empty id does not count, as in `parseLastEventId`. */
function isResuming({ headers, query }: FastifyRequest): boolean {
  return Boolean(headers['last-event-id'] || (query as { lastEventId?: string }).lastEventId);
}
