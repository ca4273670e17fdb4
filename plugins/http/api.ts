/** Types of `plugins/http` that routes may import. */

/** An error as clients see it: safe to show, with a stable code. */
export interface PublicError {
  /** HTTP status, 400 to 599. */
  readonly status: number;
  /** Stable word; see docs/errors.md. */
  readonly code: string;
  /** Says what is wrong and what to do. Never repeats input or what an upstream said. */
  readonly message: string;
  /** Reason of a refusal by the provider; a word of a closed list. */
  readonly reason?: string | undefined;
  /** False if the same request cannot succeed later; undefined if that is not known. */
  readonly retryable?: boolean | undefined;
  /** Body field that is wrong, as OpenAI names it: `messages[0].content`. */
  readonly param?: string | undefined;
  /** Milliseconds after which a retry may succeed; sent as `Retry-After`. */
  readonly retryAfterMs?: number | undefined;
  /**
   * True if this replica is draining, so that another replica may answer. The response then has `Connection: close`,
   * because a gateway would send the next request on the same connection.
   */
  readonly isDraining?: boolean | undefined;
}

/** Body of every error response outside `/v1`, and of errors of the HTTP parser everywhere. */
export interface ErrorEnvelope {
  readonly error: { readonly code: string; readonly message: string; readonly requestId: string };
}
