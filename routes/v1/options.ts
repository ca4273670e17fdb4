/**
 * The options of a Chat Completions request that have no field of their own in a question. They keep their names.
 * `providers/wire/option-table.ts` says what each API does with them.
 */

/** Fields that are read elsewhere. */
const OTHER_FIELDS: ReadonlySet<string> = new Set([
  'model',
  'messages',
  'stream',
  'stream_options',
  'temperature',
  'top_p',
  'max_tokens',
  'max_completion_tokens',
  'stop',
  'tools',
  'tool_choice',
  'resumable',
  'n',
  'modalities',
]);

/** Refused, because they would change the answer in a way that a stream of parts cannot hold. */
const UNSUPPORTED_FIELDS = ['audio', 'function_call', 'functions', 'logprobs', 'top_logprobs', 'web_search_options'];

/** Known options whose content is not looked at: names and addresses in them are data. */
const DATA_OPTIONS: ReadonlySet<string> = new Set(['metadata', 'response_format', 'prediction', 'user', 'logit_bias']);

/** Ends of names, in lower case and without separators, that could carry an address, a header or a credential. */
const FORBIDDEN_NAME =
  /(ur[il]s?|endpoints?|headers?|hosts?|hostnames?|baseurl|apibase|webhooks?|callbacks?|prox(y|ies)|apikeys?|secrets?|passwords?|authorization|credentials?|(access|auth|api|bearer|session|security|refresh|id)tokens?)$/;

type Invalid = (message: string, param?: string) => Error;

/**
 * @throws the error that `invalid` returns, for a field that is not supported, that could name a URL, a header or a
 *   credential, or that has a number too large for JSON
 */
export function optionsOf(body: object, invalid: Invalid): Record<string, unknown> {
  const given = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null && value !== undefined));
  const name = UNSUPPORTED_FIELDS.find((field) => isUsed(given[field]));
  if (name !== undefined) throw invalid(`${name} is not supported.`, name);
  if (given.n !== undefined && given.n !== 1) {
    throw invalid('n other than 1 is not supported; send one request for each answer.', 'n');
  }
  if (Array.isArray(given.modalities) && given.modalities.some((one) => one !== 'text')) {
    throw invalid('modalities other than text are not supported.', 'modalities');
  }
  const options = Object.entries(given).filter(
    ([field]) => !OTHER_FIELDS.has(field) && !UNSUPPORTED_FIELDS.includes(field),
  );
  for (const [field, value] of options) {
    // The name of a field may be anything that a client has made up.
    const param = /^[\w-]{1,40}$/.test(field) ? field : undefined;
    const shown = param ?? 'An option';
    if (hasInfinity(value)) throw invalid(`${shown} is too large.`, param);
    if (!DATA_OPTIONS.has(field) && isForbidden(field, value)) {
      throw invalid(`${shown} is not supported, because it could name a URL, a header or a credential.`, param);
    }
  }
  return Object.fromEntries(options);
}

/** Returns false for values by which clients say that they do not use a field. */
function isUsed(value: unknown): boolean {
  return value !== undefined && value !== false && value !== 0 && !(Array.isArray(value) && value.length === 0);
}

/** Returns true if the name, a name inside the value, or a text inside it could lead the call elsewhere. */
function isForbidden(name: string, value: unknown): boolean {
  if (FORBIDDEN_NAME.test(name.toLowerCase().replace(/[_.-]/g, ''))) return true;
  if (typeof value === 'string') return /^\s*[a-z][a-z0-9+.-]{0,30}:\/\//i.test(value);
  if (typeof value !== 'object' || value === null) return false;
  // The elements of a list have no name of their own.
  return Object.entries(value).some(([inner, one]) => isForbidden(Array.isArray(value) ? '' : inner, one));
}

function hasInfinity(value: unknown): boolean {
  if (typeof value === 'number') return !Number.isFinite(value);
  return typeof value === 'object' && value !== null && Object.values(value).some(hasInfinity);
}
