import fc from 'fast-check';
import type { Operation } from '../openapi-document.ts';
import { likelyOf, MODELS } from './likely.ts';
import { CANARY, type Change, changesOf, type Schema, type ValueOptions, validValue } from './values.ts';
import { WIRE_FAULTS, type WireFault } from './wire-faults.ts';

/** Makes requests to one operation of the OpenAPI document: valid ones, and some with exactly one thing wrong. */

/** Credentials of a request. All but `key` and `spent`, which has used up its limit, may be refused. */
export const CREDENTIALS = [
  'none',
  'wrong key',
  'key',
  'spent key',
  'ticket',
  'wrong ticket',
  'expired ticket',
  'read ticket',
] as const;
export type Credentials = (typeof CREDENTIALS)[number];

/** Streams that a path may name. */
export const STREAMS = ['own', 'own, ended', 'of another owner', 'unknown', 'odd'] as const;
export type StreamChoice = (typeof STREAMS)[number];
const ODD_IDS = [
  '%00',
  '%0d%0a',
  '..%2f',
  '%D0%B0%E2%80%AE',
  encodeURIComponent('👩‍👩‍👧'),
  "'--",
  '%25',
  'a'.repeat(100),
];

/** A request before its stream and its credentials are known. */
export interface Draft {
  readonly operation: string;
  readonly method: string;
  /** The path with `{id}` in place of a stream. */
  readonly path: string;
  readonly credentials: Credentials;
  readonly stream: StreamChoice;
  /** An id as it is written into the URL, for the choice `odd`. */
  readonly oddId: string;
  readonly query: Readonly<Record<string, string>>;
  readonly headers: Readonly<Record<string, string>>;
  /** The body as JSON; undefined without a body. */
  readonly body: string | undefined;
  /** True if the body is sent without `Content-Length`. */
  readonly isChunked: boolean;
  /** The fault: a value of the body, or one of the request as it is sent. */
  readonly wrong?: { readonly name: string; readonly value?: unknown; readonly wire?: WireFault };
}

interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly required?: boolean;
  readonly schema: Schema;
}

const parametersOf = ({ parameters = [] }: Operation) => parameters as unknown as readonly Parameter[];
export const bodySchemaOf = ({ requestBody }: Operation): Schema | undefined =>
  requestBody?.content['application/json']?.schema as Schema | undefined;

/** Resume points. The schema allows any text; `%` stands for the id of the stream in the path. */
const RESUME_POINTS = ['%.0', '%.1', '%.end', '%.999', `${'A'.repeat(22)}.0`, `${'A'.repeat(22)}.end`, ''];
const LIKELY_PARAMETERS: Readonly<Record<string, fc.Arbitrary<string>>> = {
  lastEventId: fc.constantFrom(...RESUME_POINTS),
  'last-event-id': fc.constantFrom(...RESUME_POINTS),
  verbose: fc.constantFrom('', '1'),
  include: fc.constant('reasoning.encrypted_content'),
  'include[]': fc.constant('reasoning.encrypted_content'),
};

/** Returns an arbitrary of valid requests to an operation. */
export function validRequest(name: string, operation: Operation, shared: ValueOptions['shared']): fc.Arbitrary<Draft> {
  const [method = '', path = ''] = name.split(' ');
  const options: ValueOptions = {
    shared,
    likely: likelyOf(name),
    named: (schema) => (schema === 'ModelName' ? fc.constantFrom(...MODELS) : undefined),
  };
  const recordOf = (place: string) => {
    const parameters = parametersOf(operation).filter((one) => one.in === place);
    const values = parameters.map((one) => [one.name, LIKELY_PARAMETERS[one.name] ?? validValue(one.schema, options)]);
    const required = parameters.filter((one) => one.required).map((one) => one.name);
    return fc.record(Object.fromEntries(values) as Record<string, fc.Arbitrary<unknown>>, { requiredKeys: required });
  };
  const schema = bodySchemaOf(operation);
  const body =
    schema === undefined ? fc.constant(undefined) : validValue(schema, options).map((value) => JSON.stringify(value));
  const isPublic = operation.security?.length === 0;
  return fc.record({
    operation: fc.constant(name),
    method: fc.constant(method.toUpperCase()),
    path:
      name === 'get /v1/models/{id}'
        ? fc.constantFrom(path, ...MODELS.map((model) => `/v1/models/${model}`))
        : fc.constant(path),
    credentials: isPublic
      ? fc.constant<Credentials>('none')
      : fc.oneof({ arbitrary: fc.constant<Credentials>('key'), weight: 12 }, fc.constantFrom(...CREDENTIALS)),
    stream: fc.constantFrom(...STREAMS),
    oddId: fc.constantFrom(...ODD_IDS),
    query: recordOf('query') as fc.Arbitrary<Record<string, string>>,
    headers: recordOf('header') as fc.Arbitrary<Record<string, string>>,
    body,
    isChunked: fc.boolean(),
  });
}

/** Returns an arbitrary of requests with one thing wrong. */
export function wrongRequest(name: string, operation: Operation, shared: ValueOptions['shared']): fc.Arbitrary<Draft> {
  const schema = bodySchemaOf(operation);
  const faults = WIRE_FAULTS.filter((fault) => fault.suits(name, schema !== undefined));
  const valid = validRequest(name, operation, shared);
  const onTheWire = fc.tuple(valid, fc.constantFrom(...faults)).map(([draft, wire]): Draft => {
    return { ...draft, wrong: { name: wire.name, wire } };
  });
  if (schema === undefined) return onTheWire;
  const inTheBody = fc.tuple(valid, fc.nat()).map(([draft, n]): Draft => {
    const changes = changesOf(schema, JSON.parse(draft.body as string), shared);
    const change = changes[n % changes.length] as Change;
    const value = change.apply();
    // A value that is missing altogether is another fault.
    return { ...draft, body: JSON.stringify(value), wrong: { name: change.name, value } };
  });
  return fc.oneof({ arbitrary: inTheBody, weight: 3 }, onTheWire);
}

/** Returns the one line by which a failed run names its request. */
export function describe({ method, path, credentials, stream, query, headers, body = '', wrong }: Draft): string {
  const details = JSON.stringify({ query, headers, body: body.length > 400 ? `${body.slice(0, 400)}…` : body });
  return `${method} ${path} as ${credentials}, stream ${stream}, wrong: ${wrong?.name ?? 'nothing'}, ${details.replaceAll(CANARY, 'C')}`;
}
