/**
 * Names of parameters in Chat Completions for those that a provider reports. Only known words and numbers pass, so
 * that no text of a client or a provider reaches a log line or another client.
 */

/** Fields of a Chat Completions request. */
const FIELDS: ReadonlySet<string> = new Set([
  'cache_control',
  'enable_thinking',
  'frequency_penalty',
  'function_call',
  'functions',
  'logit_bias',
  'logprobs',
  'max_completion_tokens',
  'max_tokens',
  'messages',
  'metadata',
  'min_p',
  'modalities',
  'model',
  'n',
  'parallel_tool_calls',
  'prediction',
  'presence_penalty',
  'prompt_cache_key',
  'prompt_cache_retention',
  'reasoning',
  'reasoning_effort',
  'repetition_penalty',
  'response_format',
  'safety_identifier',
  'seed',
  'service_tier',
  'stop',
  'store',
  'stream',
  'stream_options',
  'temperature',
  'thinking',
  'tool_choice',
  'tools',
  'top_k',
  'top_logprobs',
  'top_p',
  'user',
  'verbosity',
]);

/** Names below these fields. A parameter is cut before the first name that is not one of them. */
const SUBFIELDS: ReadonlySet<string> = new Set([
  'arguments',
  'content',
  'description',
  'detail',
  'file',
  'file_data',
  'filename',
  'function',
  'id',
  'image_url',
  'include_usage',
  'json_schema',
  'name',
  'parameters',
  'role',
  'schema',
  'strict',
  'text',
  'tool_call_id',
  'tool_calls',
  'type',
  'url',
]);

/** Names of other APIs, without the wrapper and as `toKey` returns them. */
const RENAMED: ReadonlyMap<string, string> = new Map(
  Object.entries({
    // OpenAI Responses
    input: 'messages',
    instructions: 'messages',
    maxoutputtokens: 'max_tokens',
    'reasoning.effort': 'reasoning_effort',
    'reasoning.summary': 'reasoning_effort',
    'text.format': 'response_format',
    'text.verbosity': 'verbosity',
    // Anthropic
    'outputconfig.effort': 'reasoning_effort',
    'outputconfig.format': 'response_format',
    outputformat: 'response_format',
    stopsequences: 'stop',
    system: 'messages',
    // Gemini and Vertex; `generationConfig` is left out
    candidatecount: 'n',
    contents: 'messages',
    frequencypenalty: 'frequency_penalty',
    presencepenalty: 'presence_penalty',
    responsejsonschema: 'response_format',
    responsemimetype: 'response_format',
    responseschema: 'response_format',
    systeminstruction: 'messages',
    thinkingconfig: 'reasoning_effort',
    toolconfig: 'tool_choice',
    topk: 'top_k',
    topp: 'top_p',
    // Ollama; `options` is left out
    format: 'response_format',
    numpredict: 'max_tokens',
    repeatpenalty: 'repetition_penalty',
    think: 'reasoning_effort',
  }),
);

/** Objects that hold parameters which Chat Completions has at the top. */
const WRAPPERS: ReadonlySet<string> = new Set(['generationconfig', 'options']);

/** Returns the name of a parameter in Chat Completions; undefined for any text that is not known to be one. */
export function publicParam(param: string | undefined): string | undefined {
  if (param === undefined || !/^[a-z][a-z0-9_.[\]]{0,63}$/i.test(param)) return undefined;
  // Each segment after the first keeps its separator: `tools`, `[0]`, `.function`.
  const segments = param.split(/(?=[.[])/);
  if (WRAPPERS.has(toKey(segments[0]))) segments.shift();
  const [first = '', ...rest] = segments.map((segment, i) => (i === 0 ? segment.replace(/^\./, '') : segment));
  const renamed = RENAMED.get(toKey(first + (rest[0] ?? ''))) ?? RENAMED.get(toKey(first));
  if (renamed !== undefined) return renamed;
  if (!FIELDS.has(first)) return undefined;
  const unknown = rest.findIndex((segment) => !isKnownSegment(segment));
  return first + rest.slice(0, unknown === -1 ? rest.length : unknown).join('');
}

function isKnownSegment(segment: string): boolean {
  return /^(\[\d{1,4}\]|\.\d{1,4})$/.test(segment) || SUBFIELDS.has(segment.slice(1));
}

/** `max_output_tokens` and `maxOutputTokens` are one key. */
function toKey(segment = ''): string {
  return segment.replaceAll('_', '').toLowerCase();
}
