import { type TSchema, Type } from '@sinclair/typebox';

/** Parts of route schemas for the API reference: references, responses and security. */

/** `security` of a route by its `config.access`. `{}` stands for a service without keys. */
export const PUBLIC: readonly Record<string, []>[] = [];
export const KEY = [{ key: [] }, {}];
export const KEY_OR_TICKET = [{ key: [] }, { ticket: [] }, {}];

const DESCRIPTIONS = {
  400: 'The request is not valid. The message names the field.',
  401: 'The key, token or ticket is missing, wrong or expired.',
  402: 'The account at the provider has no credit or quota left.',
  403: 'The key may not use this model, pages of this origin may not call this service, or the provider refused its key.',
  404: 'The stream or model does not exist, has expired, or belongs to another caller.',
  406: 'The `Accept` header excludes `text/event-stream`.',
  408: 'The request timed out.',
  409: 'The idempotency key was used for another question.',
  413: 'The body is too large.',
  414: 'The URL is too long.',
  415: 'The body must be uncompressed `application/json` in UTF-8.',
  429: 'A limit of the key, the visitor or the address was reached. Retry later.',
  431: 'The headers are too large or too many.',
  500: 'Internal error. The log line with the id of the `X-Request-Id` header says more.',
  502: 'The provider failed.',
  503: 'The service is overloaded, is shutting down, or depends on something that is unavailable. Retry later.',
  504: 'The provider timed out.',
} as const;

type ErrorStatus = keyof typeof DESCRIPTIONS;

/** Any request can fail with these, because of its headers, its URL or a fault in Sluice. */
const COMMON: readonly ErrorStatus[] = [400, 403, 414, 415, 431, 500];
/** Any request with a body can fail with these. */
export const BODY_ERRORS: readonly ErrorStatus[] = [408, 413];
/** Any request of the api scope can fail with these. */
export const API_ERRORS: readonly ErrorStatus[] = [401, 429, 503];

const RETRY_AFTER = { 'Retry-After': { type: 'integer', description: 'Seconds after which a retry may succeed' } };

/** Limits of requests, on every counted response; documented where a client needs them. */
const RATE_LIMIT = {
  'RateLimit-Limit': { type: 'integer', description: 'Requests per minute, of the visitor if the ticket has one' },
  'RateLimit-Remaining': { type: 'integer', description: 'Requests that are left in this minute' },
  'RateLimit-Reset': { type: 'integer', description: 'Seconds until the minute ends' },
};

/** Returns a reference to a shared schema. */
export function ref<T = unknown>(id: string) {
  return Type.Unsafe<T>({ $ref: `${id}#` });
}

/** Returns a successful JSON response. */
export function jsonResponse(schema: TSchema, description: string) {
  return { description, content: { 'application/json': { schema } } };
}

/** Returns a response without a body. */
export function emptyResponse(description: string) {
  return { type: 'null', description } as const;
}

/**
 * Returns a response of Server-Sent Events whose `data` is JSON of the shared schema. OpenAPI describes
 * events by `itemSchema` since 3.2. Fastify insists on a `schema` next to it.
 * @param sentinel `data` of an event that does not follow the schema
 */
export function sseResponse(event: string, { description = 'Server-Sent Events', sentinel = '' } = {}) {
  return { description, content: sseContent(event, sentinel) };
}

export function sseContent(event: string, sentinel = '') {
  const json = { type: 'string', contentMediaType: 'application/json', contentSchema: ref(event) };
  const itemSchema = {
    type: 'object',
    required: ['data'],
    properties: {
      id: { type: 'string' },
      event: { type: 'string', description: 'Name of the event' },
      retry: { type: 'integer', description: 'Reconnect delay in milliseconds' },
      data: sentinel === '' ? json : { anyOf: [json, { const: sentinel }] },
    },
  };
  return { 'text/event-stream': { schema: {}, itemSchema } };
}

/** Returns a response of Sluice's own events. */
export function streamResponse() {
  return sseResponse('StreamEvent', {
    description:
      'Server-Sent Events. The first one is named `ready`: it has `data: {}`, the reconnect delay as `retry`, and as `id` the position that the answer continues after. An `EventSource` with only `onmessage` does not hear it. All others are unnamed.',
    sentinel: '{}',
  });
}

/** Returns the given error responses and the common ones. */
export function errorResponses(...statuses: ErrorStatus[]) {
  return describeErrors(statuses, () => ref('Error'));
}

/** Returns error responses as `errorResponses` does, in the form of OpenAI's API. */
export function openAIErrorResponses(...statuses: ErrorStatus[]) {
  return describeErrors(statuses, (status) => {
    // Errors of the HTTP parser precede routing, so they have the form of `Error`.
    if (status === 408) return ref('Error');
    return status === 431 ? Type.Union([ref('OpenAIError'), ref('Error')]) : ref('OpenAIError');
  });
}

function describeErrors(statuses: readonly ErrorStatus[], schemaOf: (status: ErrorStatus) => TSchema) {
  return Object.fromEntries(
    [...COMMON, ...statuses].map((status) => {
      const response = jsonResponse(schemaOf(status), DESCRIPTIONS[status]);
      if (status === 429) return [status, { ...response, headers: { ...RETRY_AFTER, ...RATE_LIMIT } }];
      return [status, status === 503 ? { ...response, headers: RETRY_AFTER } : response];
    }),
  );
}
