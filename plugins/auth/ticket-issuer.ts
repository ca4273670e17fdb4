import type { Identity, Quota, TicketTerms } from './identity.ts';
import { splitOwner } from './owner.ts';
import { type createTickets, hashQuestion, MAX_CONVERSATION_MS, MAX_TICKET_MS, newNonce } from './tickets.ts';
import { asVisitor } from './visitors.ts';

/** Issues tickets to callers with a key or a token. */

export interface AskTicketOptions extends Partial<Pick<TicketTerms, 'model' | 'system' | 'maxTokens' | 'questions'>> {
  /** Milliseconds in which questions may be started: at most 60,000 for one, 3,600,000 for several. */
  readonly ms?: number | undefined;
  /** Text of the only question. */
  readonly question?: string | undefined;
  /** Name of the visitor, as the holder of the key has chosen it. Only a keyed hash is kept. */
  readonly visitor?: string | undefined;
  /** Limits of the visitor. */
  readonly limits?: Quota | undefined;
}

export interface TicketIssuer {
  /** Returns the identity of a visitor of the caller, by the name that the caller has chosen. */
  findVisitor(identity: Identity, visitor: string, limits?: Quota): Identity;
  /** Creates a ticket that starts questions. @throws 400 if it would be too long */
  createAskTicket(identity: Identity, options?: AskTicketOptions): { ticket: string; expiresAt: Date };
  /** Returns the query that lets the caller read and stop a stream. */
  createReadTicketQuery(stream: string, identity: Identity): string;
}

export interface TicketIssuerOptions {
  readonly tickets: ReturnType<typeof createTickets>;
  badRequest(message: string): Error;
  /** Longest time in milliseconds that an answer may take; read tickets are valid for longer. */
  longestAnswerMs(): number;
  /** Milliseconds for which an ended stream stays readable. */
  readonly streamTtlMs: number;
}

export function createTicketIssuer({
  tickets,
  badRequest,
  longestAnswerMs,
  streamTtlMs,
}: TicketIssuerOptions): TicketIssuer {
  return {
    findVisitor: (identity, visitor, limits) => asVisitor(identity, hashVisitor(identity.owner, visitor), limits),
    createAskTicket(identity, options = {}) {
      const { questions = 1, ms, question, visitor, limits, ...terms } = options;
      const longestMs = questions === 1 ? MAX_TICKET_MS : MAX_CONVERSATION_MS;
      const expires = expiryOf(identity, Math.min(ms ?? longestMs, longestMs));
      const ticket = tickets.sign({
        kind: 'ask',
        nonce: newNonce(),
        expires,
        ...terms,
        ...(questions > 1 && { questions }),
        ...(question !== undefined && { question: hashQuestion(question) }),
        ...(visitor !== undefined && { visitor: hashVisitor(identity.owner, visitor), limits }),
        ...ticketHolder(identity, identity.claims ?? identity),
      });
      if (ticket === undefined) {
        const cause = terms.system === undefined ? 'this token has too many claims' : 'shorten system';
        throw badRequest(`The ticket would be too long: ${cause}.`);
      }
      return { ticket, expiresAt: new Date(expires) };
    },
    createReadTicketQuery(stream, identity) {
      const { holder = identity } = identity;
      const { owner, tokenExpires } = holder;
      const ticket = tickets.sign({
        kind: 'read',
        stream,
        expires: expiryOf(identity, longestAnswerMs() + streamTtlMs),
        visitor: splitOwner(identity.owner).visitor,
        ...ticketHolder(holder, { owner, tokenExpires }),
      });
      return `?ticket=${ticket}`;
    },
  };

  /** Returns a keyed hash, because a visitor's name may be an e-mail address. Two keys never share a visitor. */
  function hashVisitor(owner: string, visitor: string): string {
    return tickets.markOf(JSON.stringify(['visitor', owner, visitor]));
  }
}

/** Returns when a ticket of a caller expires: after `ms` milliseconds, or with the caller's token. */
function expiryOf({ tokenExpires = Number.POSITIVE_INFINITY }: Identity, ms: number): number {
  return Math.min(Date.now() + ms, tokenExpires);
}

/** Returns the holder of a ticket. Tickets of a token carry claims, because the service stores no tokens. */
function ticketHolder({ owner, credential, tokenExpires }: Identity, claims: Identity) {
  return { owner, mark: credential?.mark, ...(tokenExpires !== undefined && { claims }) };
}
