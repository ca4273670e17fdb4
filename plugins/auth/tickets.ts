import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Identity, Quota, TicketTerms } from './identity.ts';

/**
 * Tickets for pages, which must not have a key, and for an EventSource, which cannot send headers. An `ask` ticket
 * starts questions. A `read` ticket reads and stops one stream. Tickets are signed, so that any replica can check them
 * without a look-up.
 */

interface TicketBase {
  /** Milliseconds since 1970. */
  readonly expires: number;
  readonly owner: string;
  /** Identity of the owner if it comes from a token, with the end of the token; the identity of a key is looked up instead. */
  readonly claims?: Identity | undefined;
  /** Mark of the key or of the token's issuer. A ticket ends with it, also if another key gets the name. */
  readonly mark?: string | undefined;
  /** Hash of the visitor's name. */
  readonly visitor?: string | undefined;
}

export type Ticket =
  | (TicketBase &
      Omit<TicketTerms, 'questions'> & {
        readonly kind: 'ask';
        /** 1 if absent. */
        readonly questions?: number | undefined;
        /** Limits of the visitor. */
        readonly limits?: Quota | undefined;
      })
  | (TicketBase & { readonly kind: 'read'; readonly stream: string });

/** Validity of an `ask` ticket for one question in milliseconds, and the longest one for several questions. */
export const MAX_TICKET_MS = 60_000;
export const MAX_CONVERSATION_MS = 3_600_000;

/** Longest ticket, in characters. */
const MAX_TICKET_LENGTH = 4_096;

/** Returns the hash by which a ticket knows its question. */
export function hashQuestion(text: string): string {
  return createHash('sha256').update(text).digest('base64url');
}

export function newNonce(): string {
  return randomBytes(16).toString('base64url');
}

/** Length of a mark in characters. */
const MARK_LENGTH = 16;

export function createTickets(secret: Buffer) {
  const signatureOf = (body: string) =>
    createHmac('sha256', secret).update(`sluice-ticket.${body}`).digest('base64url');

  return {
    /** Returns a mark of a text that may be secret. The same on all replicas that accept one another's tickets. */
    markOf(text: string): string {
      return createHmac('sha256', secret).update(`sluice-mark.${text}`).digest('base64url').slice(0, MARK_LENGTH);
    },
    /** Returns the text of a ticket; undefined if it would be too long. */
    sign(ticket: Ticket): string | undefined {
      const body = Buffer.from(JSON.stringify(ticket)).toString('base64url');
      const text = `${body}.${signatureOf(body)}`;
      return text.length > MAX_TICKET_LENGTH ? undefined : text;
    },
    /** Returns the ticket, expired or not; undefined if the signature is wrong. */
    open(text: string): Ticket | undefined {
      const [, body, signature] =
        /^([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{43})$/.exec(text.slice(0, MAX_TICKET_LENGTH + 1)) ?? [];
      if (body === undefined || signature === undefined || text.length > MAX_TICKET_LENGTH) return undefined;
      // Compared as text: decoding would drop two bits of the last character.
      if (!timingSafeEqual(Buffer.from(signature), Buffer.from(signatureOf(body)))) return undefined;
      return JSON.parse(Buffer.from(body, 'base64url').toString()) as Ticket;
    },
  };
}
