import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Identity } from './identity.ts';

/**
 * What an EventSource, which can send no header, puts into its URL. Two kinds: one starts a single
 * question, one reads and stops a single stream. Signed, so that any replica can check them without
 * asking anybody.
 */

interface TicketBase {
  readonly expires: number;
  readonly owner: string;
  /** What the owner may, where only a token says so. */
  readonly claims?: Identity | undefined;
}

export type Ticket =
  | (TicketBase & { readonly kind: 'ask'; readonly nonce: string; readonly model?: string | undefined })
  | (TicketBase & { readonly kind: 'read'; readonly stream: string });

/** The longest that a ticket may start a question, in milliseconds. */
export const MAX_TICKET_MS = 60_000;

/** No URL with more in it is one of ours. */
const MAX_TICKET_LENGTH = 4_096;

export function newNonce(): string {
  return randomBytes(16).toString('base64url');
}

export function createTickets(secret: Buffer) {
  const sign = (body: string) => createHmac('sha256', secret).update(`sluice-ticket.${body}`).digest('base64url');

  return {
    /** Undefined for one that would not fit. */
    sign(ticket: Ticket): string | undefined {
      const body = Buffer.from(JSON.stringify(ticket)).toString('base64url');
      const text = `${body}.${sign(body)}`;
      return text.length > MAX_TICKET_LENGTH ? undefined : text;
    },
    /** The ticket, its time over or not; undefined for one that is not ours, or was changed. */
    open(text: string): Ticket | undefined {
      const [, body, signature] =
        /^([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{43})$/.exec(text.slice(0, MAX_TICKET_LENGTH + 1)) ?? [];
      if (body === undefined || signature === undefined || text.length > MAX_TICKET_LENGTH) return undefined;
      // As text: the last letter has two bits that decoding would drop.
      if (!timingSafeEqual(Buffer.from(signature), Buffer.from(sign(body)))) return undefined;
      return JSON.parse(Buffer.from(body, 'base64url').toString()) as Ticket;
    },
  };
}
