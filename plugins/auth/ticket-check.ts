import type { FastifyRequest } from 'fastify';
import type { Authenticators } from './authenticators.ts';
import { type Access, type Identity, mayUseModel } from './identity.ts';
import { ownerOfVisitor } from './owner.ts';
import type { Refusal } from './refusals.ts';
import type { Ticket } from './tickets.ts';
import { asVisitor } from './visitors.ts';

export interface TicketCheckOptions {
  /** Returns the authenticators of the running configuration. */
  authenticators(): Pick<Authenticators, 'findByTicket' | 'isTicketExpired'>;
  /** Longest time in milliseconds that an answer may take. */
  longestAnswerMs(): number;
  /** Milliseconds for which an ended stream stays readable. */
  readonly streamTtlMs: number;
}

/** Returns the identity of the holder of a ticket, as far as the ticket allows it on a route; undefined has no valid signature. */
export type CheckTicket = (ticket: Ticket | undefined, request: FastifyRequest, access: Access) => Identity | Refusal;

export function createTicketCheck({ authenticators, longestAnswerMs, streamTtlMs }: TicketCheckOptions): CheckTicket {
  return (ticket, request, access) => {
    if (ticket === undefined) return { reason: 'signature' };
    const { visitor } = ticket;
    const owner = visitor === undefined ? ticket.owner : ownerOfVisitor(ticket.owner, visitor);
    const now = Date.now();
    const isExpired = ticket.expires <= now;
    // Permissions are looked up again, because the key may have been revoked, or the token may have expired.
    const holder = authenticators().findByTicket(ticket);
    if (holder === undefined)
      return { reason: authenticators().isTicketExpired(ticket) ? 'expired' : 'revoked', owner };
    if (ticket.kind === 'read') {
      const { id } = (request.params ?? {}) as { id?: string };
      if (access !== 'read' || ticket.stream !== id) return { reason: 'scope', owner };
      if (isExpired) return { reason: 'expired', owner };
      const reader = visitor === undefined ? holder : asVisitor(holder, visitor);
      return { ...reader, guesser: guesserOf(`stream:${id}`) };
    }
    // A stream that the ticket has started has ended by then, and is no longer kept.
    const isTooOld = ticket.expires + longestAnswerMs() + streamTtlMs <= now;
    if (access !== 'ask') return { reason: 'scope', owner };
    if (isTooOld || (isExpired && !isResuming(request))) return { reason: 'expired', owner };
    const { nonce, expires, questions = 1, model, system, maxTokens, question, limits } = ticket;
    if (model !== undefined && !mayUseModel(holder, model)) return { reason: 'scope', owner };
    return {
      ...(visitor === undefined ? holder : asVisitor(holder, visitor, limits)),
      ...(model !== undefined && { models: [model] }),
      ticket: { nonce, expires, questions, model, system, maxTokens, question },
      guesser: guesserOf(`ticket:${nonce}`),
      resumeOnly: isExpired,
    };
  };
}

/** Requests for unknown streams per minute that one ticket may make. A page makes one. */
const GUESSES_PER_MINUTE = 10;

function guesserOf(owner: string): Identity {
  return { owner, requestsPerMinute: GUESSES_PER_MINUTE };
}

/** Returns true if the request has a resume point. An empty id, the start of a stream, or several ids do not count. */
function isResuming({ headers, query }: FastifyRequest): boolean {
  const { lastEventId, offset } = query as { lastEventId?: unknown; offset?: unknown };
  const isPoint = (value: unknown) => typeof value === 'string' && value !== '' && value !== '-1';
  return Boolean(headers['last-event-id']) || isPoint(lastEventId) || isPoint(offset);
}
