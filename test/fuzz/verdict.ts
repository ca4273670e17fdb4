import type { Operation } from '../openapi-document.ts';
import type { Draft } from './requests.ts';
import type { FuzzService, Outcome } from './service.ts';
import type { Schema } from './values.ts';
import { DUPLICATE_RESUME_POINT } from './wire-faults.ts';

/** Judges the response to a fuzzed request. */

/** Checks of the code that the schemas do not have, by operation. A 400 with another message is a fault of one of them. */
const CHECKED_IN_CODE: readonly [operations: RegExp, message: RegExp, why: string][] = [
  [
    /ask\/stream|get \/streams|\/ui\/chat|\/agui/,
    /^Last-Event-ID( or offset)? (is not the id of an event( of this API)?|belongs to another stream)\.$/,
    'an empty value counts as none',
  ],
  [
    /chat$|completions$|responses$|agui$/,
    /^The model \w+ does not support [\w-]+; leave it out, or use another model\.$/,
    'options depend on the model',
  ],
  [/agui/, /^body\.messages\.\d+\.toolCallId must be the id of an earlier tool call\.$/, 'an earlier message decides'],
  [/agui/, /^body\.messages\.\d+\.content\.\d+ must be /, 'parts of later versions must not break a client'],
  [/get \/agui/, /^Send runId, threadId, or a Last-Event-ID\.$/, 'one of them is enough'],
  [/v1/, /^body\.messages\.\d+\.tool_call_id must be the id of an earlier tool call\.$/, 'an earlier message decides'],
  [/v1/, /^body\.tool_choice\.allowed_tools\.tools\.\d+ must name one of the tools\.$/, 'the tools decide'],
  [
    /v1/,
    /^body\.messages\.\d+\.content must be string or array, unless there are tool_calls or a refusal\.$/,
    'other fields decide',
  ],
  [/v1/, /^body\.messages\.\d+\.content\.\d+ must be text/, 'parts of later APIs must not break a client'],
  [
    /v1/,
    /^(An option|[\w-]+) is not supported, because it could name a URL, a header or a credential\.$/,
    'unknown fields are options',
  ],
  [
    /v1/,
    /^(audio|function_call|functions|logprobs|top_logprobs|web_search_options) is not supported\.$/,
    'unless it is switched off',
  ],
  [/v1/, /^(n other than 1|modalities other than text) (is|are) not supported/, 'unless it is the default'],
  [
    /\/v1\/responses$/,
    /^(Unknown parameter((:| in) [\w.[\]]+)?|Send input, or previous_response_id|background needs store|input has no message|tool_choice needs tools|The previous response does not exist or has expired|A function call has no output; add its function_call_output)\.$/,
    'one field decides about another',
  ],
  [
    /\/v1\/responses$/,
    /^[\w.[\]]+ is not supported(: [\w ,;]+)?\.$|^[\w.[\]]+ (is missing|must (be|have|name) [\w ,;:./-]+)\.$/,
    'as wide as the API of OpenAI',
  ],
  [/^get \/v1\/responses/, /^include\[\d+\] is not supported\.$/, 'values of OpenAI'],
  [/^get \/v1\/responses/, /^after is not the id of an item of this response\.$/, 'the items decide'],
  [/^get \/v1\/responses/, /^starting_after needs stream=true\.$/, 'the other parameter decides'],
  [/^get \/v1\/responses/, /^This response has no such event; its last one is before it\.$/, 'the answer decides'],
  [/cancel$/, /^Only a response in the background can be cancelled\.$/, 'the response decides'],
  [
    /^post/,
    /^The body is nested too deeply, or has too many objects, arrays or fields\.$/,
    'a bound of the whole body',
  ],
  [/ui/, /^body\.messages\.\d+\.parts\.\d+ must be an image or a PDF/, 'other parts are for the page'],
];

/** Codes of docs/errors.md that a request can get, by status. */
const CODES: Readonly<Record<number, readonly string[]>> = {
  400: ['invalid_request'],
  401: ['unauthorized'],
  403: ['forbidden'],
  404: ['not_found'],
  405: ['method_not_allowed'],
  406: ['invalid_request'],
  409: ['conflict'],
  413: ['invalid_request'],
  414: ['invalid_request'],
  415: ['invalid_request'],
  417: ['invalid_request'],
  429: ['rate_limited'],
  431: ['invalid_request'],
};

/** More codes of a 400 under `/v1/responses`, as OpenAI has them. */
const RESPONSES_CODES = [
  'context_length_exceeded',
  'missing_required_parameter',
  'previous_response_not_found',
  'unknown_parameter',
  'unsupported_parameter',
];

/** Operations that start or find an answer, and so accept a ticket for questions. */
const ASKING = /^(get|post) \/ask\/stream$|^post \/streams$|\/ui\/chat|\/agui/;

/** Statuses of requests that are not wrong. */
const BUSINESS = [403, 404, 409];

export const isRefusal = (status: number) => status >= 400 && status < 500;

export interface VerdictOptions {
  readonly operation: Operation;
  /** Returns what is wrong with a body for the schema; undefined if the schema allows it. */
  findProblem(value: unknown): string | undefined;
}

/** Returns what is wrong with a response. */
export function findFaults(service: FuzzService, draft: Draft, outcome: Outcome, options: VerdictOptions): string[] {
  const faults = [
    ...faultsOfStatus(draft, outcome, options),
    ...faultsOfError(draft, outcome),
    ...faultsOfSecrecy(service, outcome),
  ];
  if (outcome.isCut && !mayBeCut(draft, outcome)) faults.push('a response that is cut');
  const { status, counted } = outcome;
  if (JSON.stringify(counted) !== JSON.stringify({ [status]: 1 })) faults.push(`counted as ${JSON.stringify(counted)}`);
  return faults;
}

/** Returns true if a response may end in a cut: an AG-UI run that cannot be resumed now, or an answer with an error inside. */
function mayBeCut(draft: Draft, { status, body }: Outcome): boolean {
  if (status !== 200) return false;
  if (draft.operation.endsWith('/agui')) return body === '' && isResuming(draft) && draft.credentials !== 'key';
  return draft.operation.includes(' /v1/') && body.includes('"error":{');
}

/** Returns true if an operation accepts the credentials of a request. */
export function isAccepted(
  { credentials, operation, stream, query, headers, wrong }: Draft,
  { security = [] }: Operation,
): boolean {
  if (security.length === 0 || credentials === 'key' || credentials === 'spent key') return true;
  if (!security.some((scheme) => 'ticket' in scheme)) return false;
  const asks = ASKING.test(operation);
  if (credentials === 'ticket') return asks;
  if (credentials === 'expired ticket') {
    const inQuery = wrong?.name === DUPLICATE_RESUME_POINT ? undefined : query.lastEventId;
    const inHeader = headers['last-event-id'] || wrong?.name.startsWith('a resume point');
    return asks && Boolean(inHeader || inQuery || (query.offset && query.offset !== '-1'));
  }
  return credentials === 'read ticket' && !asks && stream !== 'unknown' && stream !== 'odd';
}

/** Returns true if the schema does not allow the id in the path. */
function isOddId({ stream, oddId }: Draft, { parameters = [] }: Operation): boolean {
  const id = parameters.find((one) => one.in === 'path') as { schema?: Schema } | undefined;
  return (
    stream === 'odd' &&
    id?.schema?.pattern !== undefined &&
    !new RegExp(id.schema.pattern).test(decodeURIComponent(oddId))
  );
}

/** Returns true for a request that continues an answer. Its body and its question are not looked at. */
function isResuming({ operation, headers, query }: Draft): boolean {
  if (!/\/(ask\/stream|agui|ui\/chat)$/.test(operation)) return false;
  const offset = query.offset === '-1' ? undefined : query.offset;
  return Boolean(headers['last-event-id'] || query.lastEventId || offset);
}

function faultsOfStatus(
  draft: Draft,
  { status, body, headers }: Outcome,
  { operation, findProblem }: VerdictOptions,
): string[] {
  const { wrong, credentials, operation: name } = draft;
  const isIgnored =
    isResuming(draft) && (wrong?.wire?.isIgnoredByResume ?? /^post .*\/(ask\/stream|agui|ui\/chat)$/.test(name));
  const wire = isIgnored ? undefined : wrong?.wire;
  if (wire?.isUnauthenticated) return wire.status === status ? [] : [`status ${status} instead of ${wire.status}`];
  if (operation.responses[status] === undefined) return [`status ${status} is not documented`];
  if (!isAccepted(draft, operation))
    return status === 401 ? [] : [`status ${status} with credentials that are not accepted`];
  if (status === 429) {
    const isOfVisitor = name === 'post /tickets' && draft.body?.includes('requestsPerMinute');
    const isReached = credentials === 'spent key' || credentials.includes('ticket') || isOfVisitor;
    return isReached ? [] : ['a limit that is not reached'];
  }
  const acceptsTickets = operation.security?.some((scheme) => 'ticket' in scheme);
  // Of a ticket, the body says who pays.
  const countsLater =
    ['get /ask/stream', 'get /agui', 'post /tickets'].includes(name) || name.includes('/v1/responses/');
  const countsFirst = !countsLater && (!acceptsTickets || ASKING.test(name));
  const isCounted = operation.security?.length !== 0 && countsFirst;
  if (credentials === 'spent key' && isCounted && Number(headers['ratelimit-reset']) < 59)
    return ['a spent key is let in'];
  if (isOddId(draft, operation)) return status === 400 ? [] : [`status ${status} with the id ${draft.oddId}`];
  if (wire) return wire.status === status ? [] : [`status ${status} instead of ${wire.status}`];
  const problem = wrong && !wrong.wire && !isIgnored ? findProblem(wrong.value) : undefined;
  if (problem) return status === 400 || status === 413 ? [] : [`status ${status}, but the schema refuses: ${problem}`];
  if (status < 400 || BUSINESS.includes(status)) return [];
  if (status === 401 && credentials.includes('ticket')) return [];
  const { message } = (JSON.parse(body) as { error: { message: string } }).error;
  if (CHECKED_IN_CODE.some(([operations, pattern]) => operations.test(name) && pattern.test(message))) return [];
  return [`status ${status}, but the schema allows it: ${message}`];
}

function faultsOfError({ operation, wrong }: Draft, { status, body, headers }: Outcome): string[] {
  if (status < 400) return [];
  if (!/^application\/json/.test(String(headers['content-type'])))
    return [`an error of type ${headers['content-type']}`];
  const { error, ...rest } = JSON.parse(body) as { error: Record<string, unknown> };
  const isOpenAI = operation.includes(' /v1/') && !wrong?.wire?.isUnrouted;
  const fields = isOpenAI ? ['code', 'message', 'param', 'type'] : ['code', 'message', 'requestId'];
  const faults: string[] = [];
  if (Object.keys(rest).length > 0 || Object.keys(error).sort().join() !== fields.join())
    faults.push(`the error ${body}`);
  const codes = [...(CODES[status] ?? []), ...(operation.includes('/v1/responses') ? RESPONSES_CODES : [])];
  if (!codes.includes(String(error.code))) faults.push(`status ${status} with the code ${error.code}`);
  if (!/[.]$/.test(String(error.message))) faults.push(`the message ${error.message}`);
  if (!isOpenAI && error.requestId !== headers['x-request-id']) faults.push('another request id');
  return faults;
}

/** Source files, stacks and paths of this machine. */
const INSIDES = [/\n\s+at /, /\\n\s+at /, /node_modules/, /\b[\w-]+\.(ts|js):\d+/, /file:\/\//, /node:internal/];

function faultsOfSecrecy(service: FuzzService, { status, body, log, headers, ticket }: Outcome): string[] {
  // A ticket that is no ticket is shorter, and may be a part of any word.
  const secrets = [...service.secrets, ...(ticket !== undefined && ticket.length > 10 ? [ticket] : [])];
  const error = status >= 400 ? body + JSON.stringify(headers) : '';
  const texts: [name: string, text: string][] = [
    ['the error', error],
    ['the log', log],
  ];
  return texts.flatMap(([name, text]) => [
    ...secrets.filter((secret) => text.includes(secret)).map((secret) => `${name} has ${secret}: ${text}`),
    ...INSIDES.filter((inside) => inside.test(text)).map((inside) => `${name} has ${inside}: ${text}`),
    ...(/"level":(50|60)/.test(text) ? [`an error line: ${text}`] : []),
  ]);
}
