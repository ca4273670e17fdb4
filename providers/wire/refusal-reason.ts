import type { RefusalReason, UpstreamDetail } from '../errors.ts';
import { errorClass, toWord } from './error-class.ts';
import { publicParam } from './refusal-param.ts';

/**
 * Recognizes the reason of a refusal by the provider's code and type. Where a provider sends neither, the whole
 * message or its fixed beginning counts, and never words that may stand anywhere in it: a client can put words into it.
 */

/** Codes and types of all dialects, as `toWord` returns them. */
const WORDS: Readonly<Partial<Record<RefusalReason, readonly string[]>>> = {
  context_length_exceeded: [
    'contextlengthexceeded', // OpenAI, Azure, Groq, OpenRouter
    'contextwindowexceedederror', // LiteLLM
    'exceedcontextsizeerror', // llama.cpp
    'requesttoolarge', // Anthropic
    '3051', // Mistral
    '1261', // Z.ai
  ],
  content_filter: [
    'contentfilter', // Azure, Moonshot
    'contentpolicyviolation',
    'responsibleaipolicyviolation', // Azure
    'invalidprompt', // OpenAI: flagged as a violation of the usage policy
    'cyberpolicyviolation',
    'imagecontentpolicyviolation',
    'datainspectionfailed', // DashScope
    'sensitivewordsdetected', // one-api, new-api
    '1301', // Z.ai
  ],
  unsupported_parameter: [
    'unsupportedparameter',
    'unsupportedvalue', // OpenAI: this model accepts only the default
    'unknownparameter',
    'unsupportedparamserror', // LiteLLM
  ],
  model_not_found: [
    'modelnotfound', // OpenAI, Groq, Hugging Face
    'modelnotfounderror',
    'modelnotavailable', // Together
    'modelnotsupported',
    'modeldecommissioned', // Groq
    'deploymentnotfound', // Azure
    'invalidmodel', // Mistral, Perplexity
    'unknownmodel', // Foundry
    'resourcenotfounderror', // Moonshot
    '1211', // Z.ai
  ],
  invalid_parameter: [
    'invalidvalue',
    'invalidtype',
    'missingrequiredparameter',
    'integerabovemaxvalue',
    'integerbelowminvalue',
    'decimalabovemaxvalue',
    'decimalbelowminvalue',
    'stringabovemaxlength',
    'stringbelowminlength',
    'arrayabovemaxlength',
    'arraybelowminlength',
    'emptyarray',
    'invalidfunctionparameters',
    'invalidjsonschema',
    'invalidimage',
    'invalidimageurl',
    'invalidimageformat',
    'invalidbase64image',
    'imageparseerror',
    'imagetoolarge',
    'imagetoosmall',
    'emptyimagefile',
    'unsupportedimagemediatype',
    'failedtodownloadimage',
    '1210', // Z.ai
    '1213',
    '1214',
    '1215',
  ],
};

const REASONS: ReadonlyMap<string, RefusalReason> = new Map(
  Object.entries(WORDS).flatMap(([reason, words]) => words.map((word) => [word, reason as RefusalReason] as const)),
);

/** Words that begin a code with a variable end: DashScope's `InvalidParameter.NotSupportEnableThinking`. */
const PREFIXES: readonly (readonly [string, RefusalReason])[] = [['invalidparameter', 'invalid_parameter']];

/** Whole messages, or their fixed beginnings. They count before the codes, because some codes are too general. */
const MESSAGES: readonly (readonly [RegExp, RefusalReason])[] = [
  // Anthropic
  [/^prompt is too long(: \d+ tokens > \d+ maximum)?$/i, 'context_length_exceeded'],
  [/^input length and `max_tokens` exceed context limit: \d/, 'context_length_exceeded'],
  [/^Input is too long for requested model\.?$/i, 'context_length_exceeded'], // Claude on Bedrock
  // Gemini
  [/^The input token count (\(\d+\) )?exceeds the maximum number of tokens allowed/, 'context_length_exceeded'],
  // OpenAI, vLLM, DeepSeek, OpenRouter, xAI
  [/^This (model|endpoint)'s maximum (context|prompt) length is \d+/, 'context_length_exceeded'],
  [/^'?max_(completion_)?tokens'?( or '\w+')? is too large: \d+\. ?This model's maximum/, 'context_length_exceeded'],
  [/^The (decoder )?prompt \(length \d+\) is longer than the maximum model length of \d/, 'context_length_exceeded'],
  [/^The input \(\d+ tokens\) is longer than the model's context length \(\d/, 'context_length_exceeded'], // SGLang
  [/^Requested token count exceeds the model's maximum context length of \d/, 'context_length_exceeded'],
  // Text Generation Inference
  [
    /^Input validation error: `inputs` (tokens \+ `max_new_tokens` must be <=|must have less than) \d/,
    'context_length_exceeded',
  ],
  [/^the request exceeds the available context size\b/, 'context_length_exceeded'], // llama.cpp
  [/^(request \(\d+ tokens\) exceeds the available context size)\b/, 'context_length_exceeded'],
  [/^(prompt too long; exceeded|the input length exceeds the) (max )?context length/, 'context_length_exceeded'], // Ollama
  [/^Prompt contains \d+ tokens\b/, 'context_length_exceeded'], // Mistral
  [/^too many tokens: /, 'context_length_exceeded'], // Cohere
  [/^Invalid request: Your request exceeded model token limit: \d/, 'context_length_exceeded'], // Moonshot
  [
    /^(<\d+> )?(InternalError\.Algo\.InvalidParameter: )?Range of input length should be \[\d/, // DashScope
    'context_length_exceeded',
  ],
  [/^litellm\.(BadRequestError: litellm\.)?ContextWindowExceededError\b/, 'context_length_exceeded'],
  [/^Content Exists Risk$/, 'content_filter'], // DeepSeek
  [/^Content violates usage guidelines\./, 'content_filter'], // xAI
  [/^Output blocked by content filtering policy$/, 'content_filter'], // Anthropic
  [/^model ["'][^"']{1,256}["'] not found\b/, 'model_not_found'], // Ollama, Cohere
  [/^The model `[^`]{1,256}` does not exist\b/, 'model_not_found'], // vLLM
  [/^The model \S{1,256} does not exist or /, 'model_not_found'], // xAI
  [/^Model Not Exist$/, 'model_not_found'], // DeepSeek
  [/^models\/\S{1,256} is not found for API version v\d/, 'model_not_found'], // Gemini
  [/^Publisher Model `projects\//, 'model_not_found'], // Vertex
  [/^The provided model identifier is invalid\.?$/, 'model_not_found'], // Bedrock
  [/^\S{1,256} is not a valid model ID$/, 'model_not_found'], // OpenRouter
  [/^No endpoints found for \S{1,256}$/, 'model_not_found'],
  [/^No endpoints found that support /, 'unsupported_parameter'],
  [/^property '[^']{1,128}' is unsupported\b/, 'unsupported_parameter'], // Groq
];

/** Beginnings that count only with this type, because other errors may begin in the same way. */
const TYPED_MESSAGES: readonly (readonly [string, RegExp, RefusalReason])[] = [
  ['notfounderror', /^model: /, 'model_not_found'], // Anthropic
];

/**
 * Returns the reason of a refusal; undefined if the error is no refusal, or if its reason is not known.
 * @param status HTTP status of the response; undefined for an error in a stream
 */
export function refusalReason(detail: UpstreamDetail, status?: number): RefusalReason | undefined {
  if (status !== undefined && status >= 500) return undefined;
  const found = errorClass(detail);
  if (found === 'billing') return 'quota_exhausted';
  if (found === 'rate_limit' || found === 'overload' || status === 429) return undefined;
  if (found === 'credentials') return 'credentials';
  // A type such as `api_error` says nothing against the status.
  if (found === 'provider' && status === undefined) return undefined;
  return recognize(detail) ?? (detail.wrapped && recognize(detail.wrapped)) ?? byParam(detail);
}

function recognize(detail: UpstreamDetail): RefusalReason | undefined {
  return byMessage(detail) ?? byWord(detail.code) ?? byWord(detail.type);
}

function byMessage({ message = '', type }: UpstreamDetail): RefusalReason | undefined {
  const typed = TYPED_MESSAGES.find(([word, pattern]) => word === toWord(type) && pattern.test(message));
  return typed?.[2] ?? MESSAGES.find(([pattern]) => pattern.test(message))?.[1];
}

function byWord(value: string | number | undefined): RefusalReason | undefined {
  const word = toWord(value);
  return REASONS.get(word) ?? PREFIXES.find(([prefix]) => word.startsWith(prefix))?.[1];
}

/** An error that names a parameter concerns that parameter. */
function byParam(detail: UpstreamDetail): RefusalReason | undefined {
  return publicParam(detail.param) === undefined ? undefined : 'invalid_parameter';
}
