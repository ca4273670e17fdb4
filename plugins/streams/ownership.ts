import type { Identity } from '../auth/identity.ts';
import { splitOwner } from '../auth/owner.ts';

/** Says to whom a stream belongs, and what is kept of it. */

/** The caller that has started a stream. */
export interface Ownership {
  readonly owner: string;
  /** Nonce of the ticket that started it. */
  readonly ticket?: string | undefined;
}

/** Prefixes a name that clients choose, because two owners, or pages with tickets, may choose the same one. */
export function scopeToOwner(identity: Identity, name: string): string {
  const { owner } = identity;
  const ticket = ownTicket(identity);
  return ticket === undefined ? `${owner}\n${name}` : `${owner}\nticket ${ticket}\n${name}`;
}

/**
 * Returns true for a stream of the caller. Another owner's stream is treated as unknown. The holder of a key or token
 * also owns what its visitors have started.
 */
export function isOwnedBy({ owner, ticket }: Ownership, identity: Identity): boolean {
  const own = ownTicket(identity);
  if (owner === identity.owner) return own === undefined || ticket === own;
  return own === undefined && splitOwner(owner).holder === identity.owner;
}

/** Returns the nonce of the ticket that restricts a caller to the streams that it has started. Visitors own all theirs. */
function ownTicket({ ticket, holder }: Identity): string | undefined {
  return holder === undefined ? ticket?.nonce : undefined;
}
