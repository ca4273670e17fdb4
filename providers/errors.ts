/** What can go wrong with an upstream. Codes, statuses and messages are the public contract. */

export type TimeoutStage = 'connect' | 'headers' | 'first_token' | 'idle' | 'total';

const CODES = {
  upstream_unreachable: { status: 502, message: 'The provider could not be reached.' },
  upstream_timeout: { status: 504, message: 'The provider took too long.' },
  upstream_rate_limited: { status: 429, message: 'The provider is limiting requests; ask again later.' },
  upstream_rejected: { status: 502, message: 'The provider rejected the request.' },
  upstream_failed: { status: 502, message: 'The provider failed.' },
  upstream_protocol: { status: 502, message: 'The provider sent something that is not a valid answer.' },
  upstream_truncated: { status: 502, message: 'The answer ended before it was complete.' },
  upstream_error: { status: 502, message: 'The provider reported an error while answering.' },
} as const;

export type ProviderErrorCode = keyof typeof CODES;

/** What the provider itself said. For tests and classification only: never logged, never sent on. */
export interface UpstreamDetail {
  readonly message?: string;
  readonly type?: string;
  readonly code?: string | number;
}

export interface ProviderErrorInit {
  /** The short, bounded word that counters and logs use: `connect`, `http_503`, `bad_json` … */
  readonly reason: string;
  /** Whether the same question may succeed later; decided where the error is born. */
  readonly retryable: boolean;
  readonly retryAfterMs?: number | undefined;
  readonly stage?: TimeoutStage;
  /** The upstream's HTTP status, where it had one. */
  readonly upstreamStatus?: number;
  readonly upstream?: UpstreamDetail;
  readonly cause?: unknown;
}

/** A provider's status that blames the question says the same to whoever asked it; key and money are ours. */
function clientFaultStatus(code: ProviderErrorCode, { reason, upstreamStatus }: ProviderErrorInit): number | undefined {
  if (code !== 'upstream_rejected' || reason === 'credentials' || reason === 'billing') return undefined;
  return [400, 413, 422].find((status) => status === upstreamStatus);
}

/** Thrown by providers. `message` is safe to show: it never holds what the upstream said. */
export class ProviderError extends Error {
  override readonly name = 'ProviderError';
  readonly code: ProviderErrorCode;
  /** HTTP status for answers that do not stream. */
  readonly status: number;
  readonly reason: string;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  readonly stage: TimeoutStage | undefined;
  readonly upstreamStatus: number | undefined;
  readonly #init: ProviderErrorInit;

  constructor(code: ProviderErrorCode, init: ProviderErrorInit) {
    const { status, message } = CODES[code];
    super(init.stage ? `${message.slice(0, -1)} (${init.stage}).` : message, { cause: init.cause });
    this.code = code;
    this.status = clientFaultStatus(code, init) ?? status;
    this.reason = init.reason;
    this.retryable = init.retryable;
    this.retryAfterMs = init.retryAfterMs;
    this.stage = init.stage;
    this.upstreamStatus = init.upstreamStatus;
    this.#init = init;
  }

  /** Private, so that no serialiser finds it. */
  get upstream(): UpstreamDetail | undefined {
    return this.#init.upstream;
  }

  /** The same with another delay, for whoever has another way to ask. */
  withRetryAfter(retryAfterMs: number): ProviderError {
    return new ProviderError(this.code, { ...this.#init, retryAfterMs });
  }
}
