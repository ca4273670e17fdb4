/** Faults of a request as it is sent, which no schema describes. Each has the status that the service answers. */

/** A request with its URL, headers and bytes. */
export interface Wire {
  method: string;
  /** Path and query, encoded. */
  url: string;
  /** Values of a list are sent as separate header lines. */
  headers: Record<string, string | string[]>;
  body: Buffer | undefined;
}

export interface WireFault {
  readonly name: string;
  readonly status: number;
  /** True if the request is refused before its credentials are looked at. It then counts for nobody. */
  readonly isUnauthenticated: boolean;
  /** True if the HTTP parser refuses the request: its answer has Sluice's own form under `/v1`, too. */
  readonly isUnrouted: boolean;
  /** True if a client that resumes may send the request, because nothing is asked. */
  readonly isIgnoredByResume: boolean;
  /** @param operation `method path` of the document */
  suits(operation: string, hasBody: boolean): boolean;
  apply(wire: Wire): void;
}

/** Name of the fault after which the query has no resume point. */
export const DUPLICATE_RESUME_POINT = 'a duplicate parameter';

type Options = Partial<Pick<WireFault, 'isUnauthenticated' | 'isUnrouted' | 'isIgnoredByResume' | 'suits'>>;

const fault = (name: string, status: number, apply: (wire: Wire) => void, options: Options = {}): WireFault => ({
  name,
  status,
  isUnauthenticated: false,
  isUnrouted: false,
  isIgnoredByResume: false,
  suits: () => true,
  apply,
  ...options,
});

/** A fault of the body. `change` gets its JSON. */
const bodyFault = (name: string, status: number, change: (json: string) => string | Buffer, options: Options = {}) =>
  fault(
    name,
    status,
    (wire) => {
      wire.body = Buffer.from(change(wire.body?.toString() ?? '') as string);
    },
    { suits: (_, hasBody) => hasBody, ...options },
  );

const header = (name: string, value: string | string[]) => (wire: Wire) => {
  wire.headers[name] = value;
};
const withBody: Options = { suits: (_, hasBody) => hasBody };
const ignored: Options = { isIgnoredByResume: true };
const early: Options = { isUnauthenticated: true };

/** Adds a member to the JSON of an object, which may be empty. */
const withMember = (json: string, member: string) =>
  json.replace(/^\{(?=(.))/su, (_, next) => `{${member}${next === '}' ? '' : ','}`);
const method = (name: string) => (wire: Wire) => {
  wire.method = name;
};
/** Replaces a part of the URL; without a pattern, adds to its path. */
const url =
  (replacement: string, pattern = /(?=\?|$)/) =>
  (wire: Wire) => {
    wire.url = wire.url.replace(pattern, replacement);
  };
const addParameter = (wire: Wire, parameter: string) => {
  wire.url += `${wire.url.includes('?') ? '&' : '?'}${parameter}`;
};

const EVENTS = ['get /ask/stream', 'post /ask/stream', 'get /streams/{id}'];
const CLOSED_QUERIES = ['get /ask/stream', 'get /streams/{id}'];
const KEYED = ['post /streams', 'post /v1/chat/completions', 'post /v1/responses'];
const SMALL_BODIES = ['post /ask/stream', 'post /streams', 'post /tickets'];
const at = (operations: readonly string[]): Options => ({ suits: (operation) => operations.includes(operation) });

export const WIRE_FAULTS: readonly WireFault[] = [
  bodyFault('the JSON is cut', 400, (json) => json.slice(0, -1)),
  bodyFault('the JSON is cut in a string', 400, (json) => json.slice(0, json.lastIndexOf('"') + 1) || '{"'),
  bodyFault('text follows the JSON', 400, (json) => `${json} x`),
  bodyFault('a second document follows', 400, (json) => json + json),
  bodyFault('a comment is in the JSON', 400, (json) => `/* x */${json}`),
  bodyFault('a duplicate member', 400, (json) => withMember(json, '"model":null,"model":null')),
  bodyFault('a duplicate member written with an escape', 400, (json) => withMember(json, '"x":1,"\\u0078":1')),
  bodyFault('a duplicate member deep inside', 400, (json) => withMember(json, '"x":[{"y":{"z":1,"z":2}}]')),
  bodyFault('__proto__', 400, (json) => withMember(json, '"__proto__":{"x":1}')),
  bodyFault('__proto__ deep inside', 400, (json) => withMember(json, '"x":[{"\\u005f_proto__":1}]')),
  bodyFault('constructor.prototype', 400, (json) => withMember(json, '"constructor":{"prototype":{}}')),
  bodyFault('a number beyond all', 400, (json) => withMember(json, '"seed":1e999'), ignored),
  bodyFault('a depth of 65', 400, (json) => withMember(json, `"x":${'['.repeat(64)}${']'.repeat(64)}`)),
  bodyFault('a depth of 50,000, never closed', 400, (json) => withMember(json, `"x":${'['.repeat(50_000)}`)),
  bodyFault('too many objects', 400, (json) => withMember(json, `"x":[${'{},'.repeat(100_000)}{}]`)),
  bodyFault('too many members', 400, (json) => withMember(json, `"x":[${'0,'.repeat(200_000)}0]`)),
  bodyFault('invalid UTF-8', 400, (json) => Buffer.concat([Buffer.from(json.slice(0, -1)), Buffer.from([0xff, 0x7d])])),
  bodyFault('UTF-16 without a charset', 400, (json) => Buffer.from(json, 'utf16le')),
  bodyFault('a control character in a string', 400, (json) => withMember(json, '"x":"\u0000"')),
  bodyFault('NaN', 400, (json) => withMember(json, '"seed":NaN')),
  bodyFault('an array', 400, (json) => `[${json}]`, ignored),
  bodyFault('null', 400, () => 'null', ignored),
  bodyFault('a text', 400, () => '"x"', ignored),
  bodyFault('an empty body', 400, () => '', {
    suits: (operation, hasBody) => hasBody && operation !== 'post /tickets',
  }),
  bodyFault('a body of spaces', 400, () => '   '),
  bodyFault('a body that is too long', 413, (json) => json + ' '.repeat(1_048_577), at(SMALL_BODIES)),
  fault('UTF-16', 415, header('content-type', 'application/json; charset=utf-16'), withBody),
  fault('text/plain', 415, header('content-type', 'text/plain'), withBody),
  fault('a form', 415, header('content-type', 'application/x-www-form-urlencoded'), withBody),
  fault('multipart', 415, header('content-type', 'multipart/form-data; boundary=x'), withBody),
  fault('no content type', 415, (wire) => void delete wire.headers['content-type'], withBody),
  fault('a compressed body', 415, header('content-encoding', 'gzip'), { ...withBody, ...early }),

  fault('a client that accepts JSON alone', 406, header('accept', 'application/json'), at(EVENTS)),
  fault('a resume point that is none', 400, header('last-event-id', 'x'), at(EVENTS)),
  fault('a resume point of a negative position', 400, header('last-event-id', `${'A'.repeat(22)}.-1`), at(EVENTS)),
  fault('an idempotency key of 256 characters', 400, header('idempotency-key', 'k'.repeat(256)), at(KEYED)),
  fault('an idempotency key with a space', 400, header('idempotency-key', 'a b'), at(KEYED)),
  fault('an idempotency key in Latin-1', 400, header('idempotency-key', 'caf\u00e9'), at(KEYED)),
  fault('two idempotency keys', 400, header('idempotency-key', ['a', 'b']), at(KEYED)),
  fault('an unknown parameter', 400, (wire) => addParameter(wire, 'api_base=x'), at(CLOSED_QUERIES)),
  fault('__proto__ as parameter', 400, (wire) => addParameter(wire, '__proto__=x'), at(CLOSED_QUERIES)),
  fault(DUPLICATE_RESUME_POINT, 400, (wire) => addParameter(wire, 'lastEventId=&lastEventId='), at(CLOSED_QUERIES)),
  fault('no question', 400, url('$1question=', /([?&])question=[^&]*/), at(['get /ask/stream'])),
  fault('an element of a page', 403, header('sec-fetch-site', 'cross-site'), {
    ...at(['get /ask/stream']),
    ...ignored,
  }),

  fault('two authorizations', 400, header('authorization', ['Bearer a', 'Bearer b']), early),
  fault('two origins', 400, header('origin', ['https://a.example', 'https://b.example']), early),
  fault('another origin', 403, header('origin', 'https://evil.example'), early),
  fault('a URL that is too long', 414, (wire) => addParameter(wire, `x=${'x'.repeat(8_192)}`), early),
  fault(
    'too many headers',
    431,
    (wire) => {
      for (let i = 0; i < 100; i++) wire.headers[`x-${i}`] = 'x';
    },
    early,
  ),
  fault('headers that are too long', 431, header('x-long', 'x'.repeat(17_000)), { ...early, isUnrouted: true }),
  fault('an unknown expectation', 417, header('expect', 'x'), { ...early, isUnrouted: true }),
  fault('a malformed escape in the path', 400, url('%zz'), {
    ...early,
    isUnrouted: true,
  }),
  fault('another method', 405, method('PATCH'), early),
  fault('a method without a route', 404, method('OPTIONS'), { ...early, isUnrouted: true }),
  fault('an unknown path', 404, url('/x/y/z'), {
    ...early,
    suits: (operation) => !operation.startsWith('get /v1/models'),
  }),
  fault(
    'a GET with a body',
    400,
    (wire) => {
      wire.body = Buffer.from('{}');
      wire.headers['content-type'] = 'application/json';
    },
    { ...early, suits: (operation) => operation.startsWith('get ') },
  ),
];
