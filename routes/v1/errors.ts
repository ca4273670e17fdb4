import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { PublicError } from '../../plugins/http/api.ts';

/** Errors in the form of OpenAI's API. */

export interface OpenAIError {
  readonly message: string;
  readonly type: string;
  readonly param: string | null;
  readonly code: string;
}

/** Refusals that the operator has to fix, not the client. */
const OPERATOR_REASONS: ReadonlySet<string> = new Set(['credentials', 'quota_exhausted']);

/** Statuses of failures of a provider that only its operator or another model can fix, by reason. */
const PERMANENT_STATUSES: Readonly<Record<string, number>> = {
  quota_exhausted: 402,
  credentials: 403,
  model_not_found: 404,
};

/** The SDKs wait for a minute at most. After a longer `Retry-After` they would retry within seconds. */
const MAX_RETRY_MS = 60_000;

/**
 * Returns an error as the official SDKs read it, both in a body and in a stream. The reason of a refusal replaces the
 * code, because clients look for OpenAI's codes: they shorten the conversation after `context_length_exceeded`.
 */
export function toOpenAIError({ status, code, message, reason, param }: PublicError): { readonly error: OpenAIError } {
  const isClientFault = reason !== undefined && !OPERATOR_REASONS.has(reason);
  const type = isClientFault ? 'invalid_request_error' : errorType(status);
  return { error: { message, type, param: param ?? null, code: reason ?? code } };
}

/** Beginning of the message of an invalid body or query, with the path of the field and the name of one that is missing. */
const INVALID_FIELD = /^(?:body|querystring)(?:\.([\w.[\]]{1,128}))? (?:must have required property '(\w{1,64})')?/;

/** Makes every error and unknown path of the scope answer in the form of OpenAI's API. */
export function useOpenAIErrors(scope: FastifyInstance): void {
  const sendError = (error: unknown, request: FastifyRequest, reply: FastifyReply) => {
    const publicError = withParam(scope.toPublicError(error, request, reply));
    const { code, retryAfterMs = 0 } = publicError;
    // The SDKs retry 409, 429 and 5xx by themselves unless they are told not to.
    const isTemporary = code === 'rate_limited' || code === 'overloaded';
    if (!isTemporary || retryAfterMs > MAX_RETRY_MS) reply.header('x-should-retry', 'false');
    // Sent as a string: the route's serializer, made for its successful answers, would drop fields.
    const body = JSON.stringify(toOpenAIError(publicError));
    reply.code(statusOf(publicError)).type('application/json; charset=utf-8').send(body);
  };
  scope.setErrorHandler(sendError);
  scope.setNotFoundHandler((request, reply) =>
    sendError(scope.httpErrors.notFound('Route not found.'), request, reply),
  );
}

/**
 * Returns the status. Clients repeat requests after 408, 409, 413, 422, 424, 429 and 5xx, each client after some of them, so
 * a failure that a repetition cannot fix has another one: see docs/decisions/015-statuses-and-cut-answers.md.
 */
function statusOf({ status, code, reason = '', retryable }: PublicError): number {
  const isOfProvider = code === 'upstream_rejected' && (status === 413 || status === 422);
  const isRepeated = isOfProvider || status === 429 || (status >= 500 && code !== 'internal');
  if (retryable !== false || !isRepeated) return status;
  return PERMANENT_STATUSES[reason] ?? 400;
}

/** Adds the field or query parameter that the message of an invalid request names first. */
function withParam(error: PublicError): PublicError {
  if (error.code !== 'invalid_request' || error.param !== undefined) return error;
  const [, path = '', missing = ''] = INVALID_FIELD.exec(error.message) ?? [];
  const field = [path, missing].filter((name) => name !== '').join('.');
  return field === '' ? error : { ...error, param: field.replace(/\.(\d+)/g, '[$1]') };
}

function errorType(status: number): string {
  if (status === 401) return 'authentication_error';
  if (status === 403) return 'permission_error';
  if (status === 429) return 'rate_limit_error';
  return status < 500 ? 'invalid_request_error' : 'server_error';
}
