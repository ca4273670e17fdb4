import type { IncomingHttpHeaders } from 'undici/types/header.js';
import { ProviderError, type ProviderErrorCode, type UpstreamDetail } from '../errors.ts';
import { errorClass } from './error-class.ts';
import { publicParam } from './refusal-param.ts';
import { refusalReason } from './refusal-reason.ts';
import { retryDelay } from './retry-delay.ts';

/** Client errors after which a retry may succeed. */
const TEMPORARY_STATUSES = new Set([408, 409, 425]);
/** Server errors after which a retry fails again. */
const PERMANENT_STATUSES = new Set([501, 505]);

/**
 * Converts an HTTP status of 400 or above into a `ProviderError`. An invalid key is recognized with
 * any 4xx status but 429. An error that only payment fixes is not retryable.
 * @param body the start of the response body: JSON, an SSE event with JSON, or anything else
 */
export function statusError(status: number, headers: IncomingHttpHeaders, body: string): ProviderError {
  const document = parseErrorBody(body);
  const upstream = upstreamDetail(document);
  const found = errorClass(upstream);
  const isRetryForbidden = headers['x-should-retry'] === 'false';

  const isOutOfQuota = status === 429 && isSpendCap(document, headers);
  const refusal = isOutOfQuota ? 'quota_exhausted' : refusalReason(upstream, status);
  const param = refusal && publicParam(upstream.param);

  const fault = (code: ProviderErrorCode, reason: string, mayPass: boolean) => {
    const retryable = mayPass && !isRetryForbidden;
    const retryAfterMs = retryable ? retryDelay(headers, document) : undefined;
    return new ProviderError(code, {
      upstreamStatus: status,
      upstream,
      reason,
      refusal,
      param,
      retryable,
      retryAfterMs,
    });
  };

  if (status === 429) {
    return fault('upstream_rate_limited', 'http_429', found !== 'billing' && !isOutOfQuota);
  }
  if (status >= 500) return fault('upstream_failed', `http_${status}`, !PERMANENT_STATUSES.has(status));
  if (status === 402 || found === 'billing') return fault('upstream_rejected', 'billing', false);
  if (status === 401 || status === 403 || found === 'credentials') {
    return fault('upstream_rejected', 'credentials', false);
  }
  return fault('upstream_rejected', `http_${status}`, TEMPORARY_STATUSES.has(status));
}

/**
 * Returns true for a `rate_limit_error` of Anthropic that is a spending limit. Other rate limits have
 * `retry-after` or `x-should-retry: true`.
 */
function isSpendCap(document: unknown, headers: IncomingHttpHeaders): boolean {
  if (headers['retry-after'] !== undefined || headers['x-should-retry'] === 'true') return false;
  if (!isRecord(document) || !isRecord(document.error)) return false;
  return document.type === 'error' && document.error.type === 'rate_limit_error';
}

/**
 * Returns true for a chunk of a stream that reports an error: an `error` with something in it, the object type
 * `error`, or, if the chunk has nothing of an answer, the fields of an error (DeepInfra, DashScope, Z.ai, FastAPI).
 * @param hasAnswer true if the chunk has choices or usage
 * @param isDocument true for a JSON document outside of the events: if it is no answer, it is an error
 */
export function hasError(chunk: object, hasAnswer: boolean, isDocument = false): boolean {
  const { error, object } = chunk as Record<string, unknown>;
  if (object === 'error' || (isRecord(error) ? Object.keys(error).length > 0 : Boolean(error))) return true;
  if (hasAnswer) return false;
  const { error_message, error_type, message, msg, detail, code } = chunk as Record<string, unknown>;
  return isDocument || [error_message, error_type, message, msg, detail, code].some(Boolean);
}

/** Extracts the provider's error text from a response body or an event. The place differs by provider. */
export function upstreamDetail(document: unknown): UpstreamDetail {
  if (typeof document === 'string') return { message: document };
  if (!isRecord(document)) return {};
  const inner = isRecord(document.error) || typeof document.error === 'string' ? document.error || document : document;
  if (typeof inner === 'string') return pick(inner, document.type, document.code, document.param);
  if (!isRecord(inner)) return {};
  const message =
    inner.message ?? inner.msg ?? inner.error_message ?? inner.detail ?? document.message ?? document.detail;
  const reasons = reasonsOf(inner);
  const wrapped = wrappedError(inner);
  return {
    ...pick(
      typeof message === 'string' ? message : undefined,
      inner.type ?? inner.error_type ?? inner.status,
      codeOf(inner),
      paramOf(inner),
    ),
    ...(reasons.length > 0 && { reasons }),
    ...(wrapped && { wrapped }),
  };
}

/** Returns the error that OpenRouter repeats as JSON text in `metadata.raw`. */
function wrappedError({ metadata }: Record<string, unknown>): UpstreamDetail | undefined {
  if (!isRecord(metadata) || typeof metadata.raw !== 'string') return undefined;
  const document = parseErrorBody(metadata.raw);
  return isRecord(document) && isRecord(document.error)
    ? upstreamDetail({ error: { ...document.error, metadata: null } })
    : undefined;
}

/** Returns the reasons in Google's `details`, such as `API_KEY_INVALID`. */
function reasonsOf({ details }: Record<string, unknown>): string[] {
  return listOf(details).flatMap((detail) =>
    isRecord(detail) && typeof detail.reason === 'string' ? [detail.reason] : [],
  );
}

/**
 * Returns a numeric code if there is one. Bella and Groq send the status in another field if the code is a
 * word.
 */
function codeOf({ code, httpCode, status_code: status }: Record<string, unknown>): unknown {
  if (code !== undefined && code !== null && !Number.isNaN(Number(code))) return code;
  return httpCode ?? status ?? code;
}

/** Returns the name of the wrong parameter: of Chat Completions, of Google's `details`, or of FastAPI. */
function paramOf({ param, details, detail }: Record<string, unknown>): unknown {
  if (param !== undefined && param !== null) return param;
  const [violation] = listOf(details).flatMap((one) => (isRecord(one) ? listOf(one.fieldViolations) : []));
  if (isRecord(violation)) return violation.field;
  const [problem] = listOf(detail);
  if (!isRecord(problem)) return undefined;
  const segments = listOf(problem.loc).filter((segment) => segment !== 'body');
  return segments.length > 0 ? segments.join('.') : undefined;
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function pick(message: string | undefined, type: unknown, code: unknown, param: unknown): UpstreamDetail {
  return {
    ...(message !== undefined && { message }),
    ...(typeof type === 'string' && { type }),
    ...((typeof code === 'string' || typeof code === 'number') && { code }),
    ...(typeof param === 'string' && { param }),
  };
}

/**
 * Parses an error body. Google's OpenAI-compatible endpoint sends an array with one error, and some gateways send
 * an SSE event.
 */
function parseErrorBody(body: string): unknown {
  const document = parse(body) ?? parse(/^data: ?(\{.*\})\s*$/m.exec(body)?.[1] ?? '');
  return Array.isArray(document) ? document[0] : document;
}

/** Returns undefined for text that is not JSON, for example an HTML page of a proxy. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
