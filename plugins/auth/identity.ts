/** Who asks, and what they may. */

export interface Quota {
  /** Questions a minute. */
  readonly requestsPerMinute?: number | undefined;
  /** Tokens a minute, in and out. */
  readonly tokensPerMinute?: number | undefined;
  /** Answers that may run at once. */
  readonly maxConcurrent?: number | undefined;
}

export interface Identity extends Quota {
  /** Whom streams belong to: unique, stable, and no secret. */
  readonly owner: string;
  /** Public names of models; absent for all. */
  readonly models?: readonly string[] | undefined;
  /** The ticket that this came with, by which the stream it started is known. */
  readonly ticket?: string | undefined;
  /** A ticket whose time is over: the stream that it started may still be read. */
  readonly resumeOnly?: boolean | undefined;
}

/** Everybody, where no keys are configured. */
export const ANONYMOUS: Identity = { owner: 'anybody' };
