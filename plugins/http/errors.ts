import sensible from '@fastify/sensible';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { ProviderError } from '../../providers/errors.ts';
import { envelope, type OpenAIError, openAIError, type PublicError, shouldRetry } from './error-shapes.ts';

declare module 'fastify' {
  interface FastifyInstance {
    /** An error of the contract, to be thrown before a stream. */
    apiError(error: ApiErrorInit): Error;
    /** The same for clients of OpenAI's API, as the data of an event. */
    openAIError(error: PublicError): { readonly error: OpenAIError };
  }
}

export interface ApiErrorInit extends PublicError {
  readonly retryAfterMs?: number | undefined;
}

class ApiError extends Error {
  override readonly name = 'Refusal';
  readonly statusCode: number;
  readonly code: string;
  readonly retryAfterMs: number | undefined;

  constructor({ status, code, message, retryAfterMs }: ApiErrorInit) {
    super(message);
    this.statusCode = status;
    this.code = code;
    this.retryAfterMs = retryAfterMs;
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

/** Fastify's own refusals, in words that say what to do and repeat nothing of the request. */
const MESSAGES: Readonly<Record<string, string>> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'Send the body as application/json.',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'The body is empty; send a JSON object.',
  FST_ERR_CTP_INVALID_JSON_BODY: 'The body is not valid JSON.',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'The body is not as long as Content-Length says.',
  FST_ERR_CTP_BODY_TOO_LARGE: 'The body is too large.',
  FST_ERR_MAX_PARAM_LENGTH: 'The path is too long.',
  FST_ERR_BAD_URL: 'The URL is not valid.',
};

/** One envelope for everything that goes wrong before a stream. */
export default fp(
  async (fastify) => {
    await fastify.register(sensible);
    fastify.decorate('apiError', (error: ApiErrorInit) => new ApiError(error));
    fastify.decorate('openAIError', openAIError);
    fastify.setErrorHandler(sendError);
    fastify.setNotFoundHandler((request, reply) =>
      sendError(fastify.httpErrors.notFound('There is nothing at this path.'), request, reply),
    );
  },
  { name: 'errors' },
);

export function sendError(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const described = toPublicError(error);
  const { status, code } = described;
  if (status >= 500 && code === 'internal') request.log.error({ err: error }, 'internal error');
  const retryAfterMs = (error as { retryAfterMs?: number } | undefined)?.retryAfterMs;
  if (retryAfterMs !== undefined) reply.header('retry-after', Math.ceil(retryAfterMs / 1000));
  const openAI = request.url.startsWith(`${request.server.config.basePath}/v1/`);
  if (openAI && !shouldRetry(described)) reply.header('x-should-retry', 'false');
  const body = openAI ? openAIError(described) : envelope(described, request.id);
  // A string: the route's own serialiser, made for its answers, would drop the envelope's fields.
  reply.code(status).type('application/json; charset=utf-8').send(JSON.stringify(body));
}

function toPublicError(error: unknown): PublicError {
  if (error instanceof ProviderError) return error;
  if (error instanceof ApiError) return { status: error.statusCode, code: error.code, message: error.message };
  const { statusCode: status = 500, code = '', message, validation } = error as Partial<FastifyError>;
  if (validation) return { status: 400, code: 'invalid_request', message: describeInvalidField(error as FastifyError) };
  if (status < 400 || status === 500 || status > 599) {
    return { status: 500, code: 'internal', message: 'Something went wrong here.' };
  }
  // http-errors marks what was written for clients; whatever else Fastify says may repeat the input.
  const own = (error as { expose?: boolean }).expose === true || status === 503 ? message : undefined;
  return {
    status,
    code: CODES[status] ?? 'invalid_request',
    message: MESSAGES[code] ?? own ?? 'The request is not valid.',
  };
}

function depth({ instancePath }: { instancePath: string }): number {
  return instancePath.split('/').length;
}

/** Names the field, never its value. */
function describeInvalidField({ validation = [], validationContext }: FastifyError): string {
  const place = validationContext ?? 'request';
  // Of a choice that none of whose kinds fits, the problem that lies deepest says most.
  const [problem] = [...validation].sort((a, b) => depth(b) - depth(a));
  const params = problem?.params as { additionalProperty?: string; missingProperty?: string } | undefined;
  const path = problem?.instancePath.replaceAll('/', '.') ?? '';
  const extra = params?.additionalProperty;
  if (extra !== undefined) {
    const name = /^[\w.-]{1,40}$/.test(extra) ? ` ${extra}` : '';
    return `${place}${path} has a field that is not known:${name || ' (its name is not shown)'}.`;
  }
  return `${place}${path} ${problem?.message ?? 'is not valid'}.`;
}
