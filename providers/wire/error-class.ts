import type { UpstreamDetail } from '../errors.ts';

/**
 * Classifies a provider's error by its code and type, and never by words that may stand anywhere in its message: a
 * client can put words into it, because providers repeat wrong values.
 */

/**
 * Subject of an error: the account's money, the key, the rate of calls, a busy server, the request, or the
 * provider itself.
 */
export type ErrorClass = 'billing' | 'credentials' | 'rate_limit' | 'overload' | 'request' | 'provider';

/** Codes and types of all dialects, in lower case and without separators. The first class that knows a word counts. */
const WORDS: readonly (readonly [ErrorClass, readonly string[]])[] = [
  [
    'billing',
    [
      'insufficientquota', // OpenAI
      'exceededcurrentquotaerror', // Moonshot
      'insufficientbalance',
      'billingerror', // Anthropic
      'billinghardlimitreached',
      'billingnotactive',
      'arrearage', // DashScope
      'accountoverdueerror', // Volcengine
      'paymentrequired',
      'insufficientcredits',
      '1113', // Z.ai
    ],
  ],
  [
    'credentials',
    [
      'authenticationerror',
      'invalidauthenticationerror', // Moonshot
      'invalidapikey',
      'apikeyinvalid', // Gemini, in `details`
      'incorrectapikeyerror',
      'unauthenticated',
      'unauthorized',
    ],
  ],
  [
    'rate_limit',
    [
      'ratelimiterror',
      'ratelimitexceeded',
      'ratelimitreachederror', // Moonshot
      'resourceexhausted', // Google
      'toomanyrequests',
      'limitrequests', // DashScope
      'limitburstrate',
      'requestlimitexceeded',
      '1302', // Z.ai
      '1303',
      '429',
    ],
  ],
  [
    'overload',
    [
      'overloadederror', // Anthropic
      'engineoverloadederror', // Moonshot
      'overloaded',
      'modeloverloaded',
      'unavailable', // Google
      'serviceunavailable',
      'serviceunavailableerror',
      'serviceunavailableexception', // Bedrock
      'servicetiercapacityexceeded', // Mistral
      '1305', // Z.ai
      '529',
      '503',
    ],
  ],
  [
    'request',
    [
      'invalidrequesterror',
      'invalidrequest',
      'badrequest',
      'badrequesterror', // vLLM
      'invalidargument', // Google
      'failedprecondition',
      'notfound',
      'notfounderror',
      'modelnotfound',
      'permissionerror',
      'permissiondenied',
      'permissiondeniederror',
      'forbidden',
      'unprocessableentity',
      'unprocessableentityerror',
      'validationerror',
      'validationexception', // Bedrock
      'accessdeniedexception',
      'requesttoolarge',
      'contextlengthexceeded',
      'contextwindowexceedederror', // LiteLLM
      'contentfilter',
      'contentpolicyviolation',
      'datainspectionfailed', // DashScope
      '1301', // Z.ai
    ],
  ],
  ['provider', ['apierror', 'internal', 'internalerror', 'internalservererror', 'servererror', 'timeouterror']],
];

const CLASSES: ReadonlyMap<string, ErrorClass> = new Map(
  [...WORDS].reverse().flatMap(([name, words]) => words.map((word) => [word, name] as const)),
);

/** Words that begin a code of one class, for codes with a variable end: DashScope's `Throttling.RateQuota`. */
const PREFIXES: readonly (readonly [string, ErrorClass])[] = [
  ['throttling', 'rate_limit'],
  ['invalidparameter', 'request'],
  ['unsupportedparameter', 'request'],
];

/**
 * Whole messages, or their fixed beginnings, of providers that send no code. A client cannot choose the beginning
 * of a message.
 */
const MESSAGES: readonly (readonly [RegExp, ErrorClass])[] = [
  [/^Your credit balance is too low to access the Anthropic API/, 'billing'],
  [/^(已达每月额度上限|主ak的总额度已达上限)/, 'billing'], // Bella
  [/^(API key (not valid|expired)\b|(Incorrect|Invalid) API key\b)/i, 'credentials'], // Gemini, xAI, Mistral
];

/** Order in which the class of the code and that of the type count, if they differ. */
const ORDER = WORDS.map(([name]) => name);

/** Returns the class of an error; undefined if neither its code nor its type is known. */
export function errorClass({ code, type, message = '', reasons = [] }: UpstreamDetail): ErrorClass | undefined {
  const classes = [code, type, ...reasons].map(classOfWord);
  classes.push(MESSAGES.find(([pattern]) => pattern.test(message))?.[1]);
  return ORDER.find((name) => classes.includes(name)) ?? classOfStatus(Number(code));
}

/** Returns the class of an HTTP status of 400 or above; undefined for any other number. */
function classOfStatus(status: number): ErrorClass | undefined {
  if (status === 401) return 'credentials';
  if (status === 402) return 'billing';
  if (status === 429) return 'rate_limit';
  if (status === 503 || status === 529) return 'overload';
  // 499 is Google's "cancelled".
  if ([408, 409, 425, 499].includes(status) || (status >= 500 && status < 600)) return 'provider';
  return status >= 400 && status < 500 ? 'request' : undefined;
}

/** Returns a code or type in lower case and without separators. */
export function toWord(value: string | number | undefined): string {
  return String(value ?? '')
    .toLowerCase()
    .replace(/[^a-z0-9]/g, '');
}

function classOfWord(value: string | number | undefined): ErrorClass | undefined {
  const word = toWord(value);
  return CLASSES.get(word) ?? PREFIXES.find(([prefix]) => word.startsWith(prefix))?.[1];
}
