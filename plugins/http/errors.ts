import sensible from '@fastify/sensible';
import type { FastifyError, FastifyReply, FastifyRequest, FastifySchemaValidationError } from 'fastify';
import fp from 'fastify-plugin';
import { ProviderError } from '../../providers/errors.ts';
import type { ErrorEnvelope, PublicError } from './api.ts';

declare module 'fastify' {
  interface FastifyInstance {
    /** Creates an error with a public code, to be thrown before a stream begins. */
    apiError(error: PublicError): Error;
    /** Creates an `invalid_request` error; 400 unless another status is given. `param` is the wrong body field. */
    invalidRequest(message: string, status?: number, param?: string): Error;
    /**
     * Returns what clients may see of any thrown value, and sets the headers that belong to it. Logs faults of this
     * service.
     */
    toPublicError(error: unknown, request: FastifyRequest, reply: FastifyReply): PublicError;
  }
}

class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly statusCode: number;
  readonly code: string;
  readonly reason: string | undefined;
  readonly retryable: boolean | undefined;
  readonly param: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly isDraining: boolean;

  constructor({ status, code, message, reason, retryable, param, retryAfterMs, isDraining = false }: PublicError) {
    super(message);
    this.statusCode = status;
    this.code = code;
    this.reason = reason;
    this.retryable = retryable;
    this.param = param;
    this.retryAfterMs = retryAfterMs;
    this.isDraining = isDraining;
  }
}

const CODES: Readonly<Record<number, string>> = {
  401: 'unauthorized',
  403: 'forbidden',
  404: 'not_found',
  405: 'method_not_allowed',
  409: 'conflict',
  429: 'rate_limited',
  503: 'overloaded',
};

/** Messages for Fastify's own errors, which may repeat parts of the request. */
const MESSAGES: Readonly<Record<string, string>> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'Send the body as application/json.',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'The body is empty; send a JSON object.',
  FST_ERR_CTP_INVALID_JSON_BODY: 'The body is not valid JSON.',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'The length of the body differs from Content-Length.',
  FST_ERR_CTP_BODY_TOO_LARGE: 'The body is too large.',
  FST_ERR_MAX_PARAM_LENGTH: 'The path is too long.',
  FST_ERR_BAD_URL: 'The URL is not valid.',
};

/** Codes of the system for a file that cannot be opened because too many are open. */
const NO_DESCRIPTOR: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE']);

const NO_ROOM = 'This replica has too many files open; retry later.';

/** Adds error and not-found handlers that answer with one JSON envelope. Scopes may replace both handlers. */
export default fp(
  async (fastify) => {
    await fastify.register(sensible);
    fastify.decorate('apiError', (error: PublicError) => new ApiError(error));
    fastify.decorate(
      'invalidRequest',
      (message: string, status = 400, param?: string) =>
        new ApiError({ status, code: 'invalid_request', message, param }),
    );
    fastify.decorate('toPublicError', toPublicError);
    fastify.setErrorHandler(sendError);
    fastify.setNotFoundHandler((request, reply) =>
      sendError(fastify.httpErrors.notFound('Route not found.'), request, reply),
    );
  },
  { name: 'errors' },
);

/** Sends an error as the default envelope. */
export function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const publicError = toPublicError(error, request, reply);
  // Sent as a string, because the response schema of the route would remove the fields of an error.
  const body = JSON.stringify(envelope(publicError, request.id));
  reply.code(publicError.status).type('application/json; charset=utf-8').send(body);
}

export function envelope({ code, message }: PublicError, requestId: string): ErrorEnvelope {
  return { error: { code, message, requestId } };
}

function toPublicError(error: unknown, request: FastifyRequest, reply: FastifyReply): PublicError {
  const publicError = describe(error);
  const { retryAfterMs, isDraining } = publicError;
  if (retryAfterMs !== undefined) reply.header('retry-after', Math.ceil(retryAfterMs / 1000));
  if (isDraining) reply.header('connection', 'close');
  if (publicError.code === 'internal') request.log.error({ err: error }, 'internal error');
  return publicError;
}

function describe(error: unknown): PublicError {
  if (error instanceof ProviderError) {
    const { status, code, message, refusal, param, retryable, retryAfterMs } = error;
    return { status, code, message, reason: refusal, retryable, param, retryAfterMs };
  }
  if (error instanceof ApiError) {
    const { statusCode, code, message, reason, retryable, param, retryAfterMs, isDraining } = error;
    return { status: statusCode, code, message, reason, retryable, param, retryAfterMs, isDraining };
  }
  const { statusCode: status = 500, code = '', message, validation } = error as Partial<FastifyError>;
  if (NO_DESCRIPTOR.has(code)) return { status: 503, code: 'overloaded', message: NO_ROOM, retryAfterMs: 1_000 };
  if (validation) return { status: 400, code: 'invalid_request', message: describeInvalidField(error as FastifyError) };
  if (status < 400 || status === 500 || status > 599) {
    return { status: 500, code: 'internal', message: 'Internal error.' };
  }
  // http-errors marks messages that are meant for clients. Any other message may repeat the input.
  const exposed = (error as { expose?: boolean }).expose === true || status === 503 ? message : undefined;
  return {
    status,
    code: CODES[status] ?? 'invalid_request',
    message: MESSAGES[code] ?? exposed ?? 'The request is not valid.',
  };
}

/** Names the invalid field, never its value. */
function describeInvalidField({ validation = [], validationContext }: FastifyError): string {
  const place = validationContext ?? 'request';
  const problem = clearestProblem(validation);
  const params = problem?.params as { additionalProperty?: string } | undefined;
  const path = problem?.instancePath.replaceAll('/', '.') ?? '';
  const extra = params?.additionalProperty;
  if (extra !== undefined) {
    return `Unknown field in ${place}${path}${printableSuffix(extra)}.`;
  }
  return `${place}${path} ${problem?.message ?? 'is not valid'}.`;
}

/**
 * Returns the problem to report. If no branch of a union matches, this is the one with the longest path; of several
 * with the same path, one of a branch that has the type of the value. If no branch has it, the types are joined.
 */
function clearestProblem(problems: readonly FastifySchemaValidationError[]): FastifySchemaValidationError | undefined {
  const [deepest] = [...problems].sort((a, b) => depth(b) - depth(a));
  const atPath = problems.filter(({ instancePath }) => instancePath === deepest?.instancePath);
  const ofBranch = atPath.filter(({ keyword }) => !UNION_KEYWORDS.has(keyword));
  const found = ofBranch.find(({ keyword }) => keyword !== 'enum') ?? ofBranch[0];
  if (found !== undefined) return found;
  const types = atPath.flatMap(({ keyword, params }) => (keyword === 'type' ? String(params.type).split(',') : []));
  return deepest && { ...deepest, ...(types.length > 1 && { message: `must be ${[...new Set(types)].join(' or ')}` }) };
}

/** Keywords of problems that say only that a branch of a union does not match. */
const UNION_KEYWORDS: ReadonlySet<string> = new Set(['type', 'anyOf', 'oneOf', 'if']);

/** Returns `: name` for a name that is a plain word, else nothing: other names may be part of a question. */
export function printableSuffix(name: string): string {
  return /^[\w.-]{1,40}$/.test(name) ? `: ${name}` : '';
}

function depth({ instancePath }: { instancePath: string }): number {
  return instancePath.split('/').length;
}
