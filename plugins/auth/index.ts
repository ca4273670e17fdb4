import { randomBytes } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { RestartRequired } from '../config/index.ts';
import { type CallerSettings, createAuthenticators } from './authenticators.ts';
import { type Access, ANONYMOUS, type Identity, mayUseModel } from './identity.ts';
import { createKeySets, KeySetUnavailable } from './key-set.ts';
import { isLoopback } from './loopback-host.ts';
import { createKeyRefusals, isRefusal, type Refusal } from './refusals.ts';
import { type Credential, createCredentials } from './revocation.ts';
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
        return authenticators.findByKey(sent) ?? (await identifyByToken(sent, request));
      }
      const { ticket } = (request.query ?? {}) as { ticket?: unknown };
      if (access === 'api' || typeof ticket !== 'string') return { reason: 'missing' };
      return identifyByTicket(ticket, request, access);
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

    function identifyByTicket(text: string, request: FastifyRequest, access: Access): Identity | Refusal {
      const ticket = tickets.open(text);
      if (ticket === undefined) return { reason: 'signature' };
      const { owner } = ticket;
      const now = Date.now();
      const isExpired = ticket.expires <= now;
      // Permissions are looked up again, because the key may have been revoked, or the token may have expired.
      const holder = authenticators.findByTicket(ticket);
      if (holder === undefined)
        return { reason: authenticators.isTicketExpired(ticket) ? 'expired' : 'revoked', owner };
      if (ticket.kind === 'read') {
        const { id } = (request.params ?? {}) as { id?: string };
        if (access !== 'read' || ticket.stream !== id) return { reason: 'scope', owner };
        if (isExpired) return { reason: 'expired', owner };
        return { ...holder, guesser: guesserOf(`stream:${id}`) };
      }
      // A stream that the ticket has started has ended by then, and is no longer kept.
      const isTooOld = ticket.expires + longestAnswerMs() + streamTtlMs <= now;
      if (access !== 'ask') return { reason: 'scope', owner };
      if (isTooOld || (isExpired && !isResuming(request))) return { reason: 'expired', owner };
      const { model, nonce } = ticket;
      if (model !== undefined && !mayUseModel(holder, model)) return { reason: 'scope', owner };
      return {
        ...holder,
        ...(model !== undefined && { models: [model] }),
        ticket: nonce,
        guesser: guesserOf(`ticket:${nonce}`),
        resumeOnly: isExpired,
      };
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
      createAskTicket(identity: Identity, model: string | undefined, ms = MAX_TICKET_MS) {
        // A ticket stands for one question only as long as the stream of that question is kept.
        const expires = expiryOf(identity, Math.min(ms, MAX_TICKET_MS, streamTtlMs));
        const ticket = tickets.sign({
          kind: 'ask',
          nonce: newNonce(),
          expires,
          model,
          ...ticketHolder(identity, identity.claims ?? identity),
        });
        if (ticket === undefined) throw fastify.httpErrors.badRequest('This token has too many claims for a ticket.');
        return { ticket, expiresAt: new Date(expires) };
      },
      createReadTicketQuery(stream: string, identity: Identity) {
        if (!authenticators.required) return '';
        const expires = expiryOf(identity, longestAnswerMs() + streamTtlMs);
        const { owner, tokenExpires } = identity;
        return `?ticket=${tickets.sign({ kind: 'read', stream, expires, ...ticketHolder(identity, { owner, tokenExpires }) })}`;
      },
      findCredential: (mark: string | undefined) => authenticators.findCredential(mark),
    });

    if (!authenticators.required && !isLoopback(host)) {
      fastify.log.warn({ host }, 'no keys configured; everybody who reaches this address can ask');
    }
  },
  { name: 'auth', dependencies: ['audit', 'clock', 'config', 'errors', 'address-limit'] },
);

/** Returns when a ticket of a caller expires: after `ms` milliseconds, or with the caller's token. */
function expiryOf({ tokenExpires = Number.POSITIVE_INFINITY }: Identity, ms: number): number {
  return Math.min(Date.now() + ms, tokenExpires);
}

/** Returns the holder of a ticket. Tickets of a token carry claims, because the service stores no tokens. */
function ticketHolder({ owner, credential, tokenExpires }: Identity, claims: Identity) {
  return { owner, mark: credential?.mark, ...(tokenExpires !== undefined && { claims }) };
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

/** Returns true if the request has a resume point. An empty id, or several in the query, do not count. */
function isResuming({ headers, query }: FastifyRequest): boolean {
  const { lastEventId } = query as { lastEventId?: unknown };
  return Boolean(headers['last-event-id']) || (typeof lastEventId === 'string' && lastEventId !== '');
}
