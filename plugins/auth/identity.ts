import type { Credential } from './revocation.ts';

/** The identity of a caller, and what the caller may do. */

export interface Quota {
  /** Questions per minute. */
  readonly requestsPerMinute?: number | undefined;
  /** Input and output tokens per minute. */
  readonly tokensPerMinute?: number | undefined;
  /** Input and output tokens per day. */
  readonly tokensPerDay?: number | undefined;
  /** Generations that may run at the same time. */
  readonly maxConcurrent?: number | undefined;
  /** USD that answers may cost in a calendar period. */
  readonly budget?: { readonly period: 'day' | 'month'; readonly amount: number } | undefined;
}

/** Permissions and bounds that a ticket sets. */
export interface TicketTerms {
  /** Identifies the ticket, and the streams that it has started. */
  readonly nonce: string;
  /** Milliseconds since 1970. */
  readonly expires: number;
  /** Number of questions that it may start. */
  readonly questions: number;
  /** Public name of the only model. */
  readonly model?: string | undefined;
  /** System text of every question. */
  readonly system?: string | undefined;
  /** Most tokens of an answer. */
  readonly maxTokens?: number | undefined;
  /** SHA-256 of the only question, in base64url. */
  readonly question?: string | undefined;
}

export interface Identity extends Quota {
  /** The owner of streams: unique, stable, and not a secret. */
  readonly owner: string;
  /** Public names of the models that the caller may use; absent for all. */
  readonly models?: readonly string[] | undefined;
  /** The key or subject whose limits a visitor uses up as well. */
  readonly holder?: Identity | undefined;
  /** Owner of the limits that the caller uses up, if it is not `owner`. */
  readonly payer?: string | undefined;
  /** Identity by the claims of the token alone, if defaults were added. Tickets carry it, to get the defaults of their use. */
  readonly claims?: Identity | undefined;
  /** The ticket that the request came with, if it was one for questions. */
  readonly ticket?: TicketTerms | undefined;
  /** Limits of the visitors of a key or subject, for those that their ticket does not set. */
  readonly visitors?: Quota | undefined;
  /** Pays for requests for unknown streams in place of the owner, whose ticket anybody may repeat. */
  readonly guesser?: Identity | undefined;
  /** The key, or the issuer of the token, that the request came with. What the request has started ends with it. */
  readonly credential?: Credential | undefined;
  /** Milliseconds since 1970 after which the token is refused; absent for a key. Tickets of the token end with it. */
  readonly tokenExpires?: number | undefined;
  /** True for an expired ticket: it can only resume the stream that it started. */
  readonly resumeOnly?: boolean | undefined;
}

/**
 * Credentials that a route of the api scope accepts if keys or tokens are configured: a key or token (`api`),
 * also a ticket for questions (`ask`), also a ticket for this stream (`read`), or none (`public`).
 */
export type Access = 'api' | 'ask' | 'read' | 'public';

/** The identity of every caller if neither keys nor tokens are configured. */
export const ANONYMOUS: Identity = { owner: 'anybody' };

/** Returns true if the caller may use the model with this public name. */
export function mayUseModel({ models }: Pick<Identity, 'models'>, model: string): boolean {
  return models === undefined || models.includes(model);
}
