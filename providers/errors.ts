/** Errors of upstream calls. Codes, statuses and messages are a public contract. */

/** The deadline that a call has missed. */
export type TimeoutStage = 'connect' | 'headers' | 'first_token' | 'idle' | 'total';

/**
 * Status and message of each code. The message gets the stage of a timeout, and advice if a retry may succeed.
 */
const CODES = {
  upstream_unreachable: { status: 502, problem: 'The provider could not be reached' },
  upstream_timeout: { status: 504, problem: 'The provider timed out' },
  upstream_rate_limited: { status: 429, problem: 'The provider is limiting requests' },
  upstream_rejected: { status: 502, problem: 'The provider rejected the request' },
  upstream_failed: { status: 502, problem: 'The provider failed' },
  upstream_protocol: { status: 502, problem: 'The provider sent an invalid response' },
  upstream_truncated: { status: 502, problem: 'The answer ended before it was complete' },
  upstream_error: { status: 502, problem: 'The provider reported an error during the answer' },
} as const;

export type ProviderErrorCode = keyof typeof CODES;

/** Reasons of a refusal that a client or an operator can act on. */
export type RefusalReason =
  | 'context_length_exceeded'
  | 'content_filter'
  | 'unsupported_parameter'
  | 'invalid_parameter'
  | 'model_not_found'
  | 'quota_exhausted'
  | 'credentials';

/** Refusals that follow from the label of an error. */
const REFUSALS_BY_LABEL: Readonly<Record<string, RefusalReason>> = {
  billing: 'quota_exhausted',
  credentials: 'credentials',
  image_url: 'invalid_parameter',
  prompt_blocked: 'content_filter',
};

/** Refusals that a client can act on, in words. */
const REFUSAL_TEXTS: Readonly<Partial<Record<RefusalReason, string>>> = {
  context_length_exceeded: 'the question is too long for the model',
  content_filter: 'its content filter blocked the question',
  unsupported_parameter: 'unsupported parameter',
  invalid_parameter: 'invalid parameter',
  model_not_found: 'unknown model',
};

/** Error text of the provider. For classification and tests only: never log it or send it to clients. */
export interface UpstreamDetail {
  readonly message?: string;
  readonly type?: string;
  readonly code?: string | number;
  /** Google's reasons in `details`. */
  readonly reasons?: readonly string[];
  /** Name of the wrong parameter, as the provider calls it. */
  readonly param?: string;
  /** Error of another provider that this one repeats, as OpenRouter does. */
  readonly wrapped?: UpstreamDetail;
}

export interface ProviderErrorInit {
  /** Short label for metrics and logs, from a bounded set: `connect`, `http_503`, `bad_json` … */
  readonly reason: string;
  /** Reason of a refusal; if absent, it follows from `reason`. */
  readonly refusal?: RefusalReason | undefined;
  /** Name of the wrong field in Chat Completions, composed of known words only. */
  readonly param?: string | undefined;
  /** Says what is wrong, instead of the message of the code. Must not contain text of a client or an upstream. */
  readonly problem?: string;
  /** Code of a failed TLS handshake, for example `CERT_HAS_EXPIRED`. */
  readonly tlsCode?: string | undefined;
  /** True if the same question may succeed later. */
  readonly retryable: boolean;
  /** Milliseconds to wait before a retry; undefined if the provider does not say. */
  readonly retryAfterMs?: number | undefined;
  /** Set for timeouts only. */
  readonly stage?: TimeoutStage;
  /** HTTP status of the upstream's response, if there was one. */
  readonly upstreamStatus?: number;
  readonly upstream?: UpstreamDetail;
  readonly cause?: unknown;
}

/**
 * Returns the provider's status if it means that the question is invalid: the client gets the same status.
 * Rejected credentials and billing errors concern the operator, not the client.
 */
function clientFaultStatus(code: ProviderErrorCode, { reason, upstreamStatus }: ProviderErrorInit): number | undefined {
  if (code !== 'upstream_rejected' || reason === 'credentials' || reason === 'billing') return undefined;
  return [400, 413, 422].find((status) => status === upstreamStatus);
}

function describeRefusal(refusal: RefusalReason | undefined, param: string | undefined): string {
  const text = refusal && REFUSAL_TEXTS[refusal];
  if (text === undefined) return '';
  return param !== undefined && text.endsWith(' parameter') ? `: ${text} ${param}` : `: ${text}`;
}

/** Error of an upstream call. `message` is safe to send to clients: it never contains text of the upstream. */
export class ProviderError extends Error {
  override readonly name = 'ProviderError';
  readonly code: ProviderErrorCode;
  /** HTTP status for answers that are not streamed. */
  readonly status: number;
  readonly reason: string;
  readonly refusal: RefusalReason | undefined;
  readonly param: string | undefined;
  readonly tlsCode: string | undefined;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  readonly stage: TimeoutStage | undefined;
  readonly upstreamStatus: number | undefined;
  readonly #init: ProviderErrorInit;

  constructor(code: ProviderErrorCode, init: ProviderErrorInit) {
    const { status, problem } = CODES[code];
    const stage = init.stage ? ` (${init.stage})` : '';
    const advice = init.retryable ? '; retry later' : '';
    const refusal = init.refusal ?? REFUSALS_BY_LABEL[init.reason];
    super(`${init.problem ?? problem + describeRefusal(refusal, init.param)}${stage}${advice}.`, { cause: init.cause });
    this.code = code;
    this.status = clientFaultStatus(code, init) ?? status;
    this.reason = init.reason;
    this.refusal = refusal;
    this.param = init.param;
    this.tlsCode = init.tlsCode;
    this.retryable = init.retryable;
    this.retryAfterMs = init.retryAfterMs;
    this.stage = init.stage;
    this.upstreamStatus = init.upstreamStatus;
    this.#init = init;
  }

  /** Error text of the provider. A getter over a private field, so that serializers do not include it. */
  get upstream(): UpstreamDetail | undefined {
    return this.#init.upstream;
  }
}

/**
 * This process lacks something that every call needs, such as a file descriptor. No provider is to blame: nothing is
 * retried, no other target is called, and no circuit breaker counts it.
 */
export class OverloadedError extends Error {
  override readonly name = 'OverloadedError';
  readonly code = 'overloaded';
  readonly status = 503;
  readonly retryAfterMs = 1_000;
  /** Short label for metrics and logs. */
  readonly reason: string;

  constructor(reason: string, cause?: unknown) {
    super('This replica has no room for another call; retry later.', { cause });
    this.reason = reason;
  }
}
