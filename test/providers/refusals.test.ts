import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import type { ProviderError, RefusalReason } from '../../providers/errors.ts';
import { inBandError } from '../../providers/wire/in-band-error.ts';
import { publicParam } from '../../providers/wire/refusal-param.ts';
import { statusError, upstreamDetail } from '../../providers/wire/status-error.ts';
import { anthropic, type Dialect, DONE, events, gemini, lines, ollama, openai, startDialects } from './dialects.ts';
import { noRecordings } from './fixtures.ts';

/** Tests which reason and which parameter a refusal gets, and that no text of a client can choose them. */

type Expected = RefusalReason | undefined;

/** Error bodies as providers send them, with their status. */
const REFUSALS: readonly (readonly [provider: string, status: number, error: unknown, Expected, param?: string])[] = [
  ['openai', 400, { code: 'context_length_exceeded', param: 'messages' }, 'context_length_exceeded', 'messages'],
  ['openai', 400, { code: 'unsupported_value', param: 'temperature' }, 'unsupported_parameter', 'temperature'],
  ['openai', 400, { code: 'unknown_parameter', param: 'thinking' }, 'unsupported_parameter', 'thinking'],
  ['openai', 400, { code: 'invalid_value', param: 'messages[0].role' }, 'invalid_parameter', 'messages[0].role'],
  ['openai', 400, { code: 'integer_above_max_value', param: 'max_output_tokens' }, 'invalid_parameter', 'max_tokens'],
  ['openai', 400, { code: 'invalid_json_schema', param: 'text.format.schema' }, 'invalid_parameter', 'response_format'],
  ['openai', 400, { type: 'invalid_request_error', param: 'top_p', code: null }, 'invalid_parameter', 'top_p'],
  ['openai', 400, { type: 'invalid_request_error', code: null }, undefined],
  ['openai', 400, { code: 'invalid_prompt' }, 'content_filter'],
  ['openai', 404, { code: 'model_not_found', param: null }, 'model_not_found'],
  ['openai', 403, { code: 'model_not_found' }, 'model_not_found'],
  ['openai', 401, { code: 'invalid_api_key' }, 'credentials'],
  ['openai', 403, { message: 'no' }, 'credentials'],
  ['openai', 429, { code: 'insufficient_quota' }, 'quota_exhausted'],
  ['openai', 429, { code: 'rate_limit_exceeded', param: 'messages' }, undefined],
  ['openai', 500, { code: 'context_length_exceeded' }, undefined],
  ['any', 402, {}, 'quota_exhausted'],
  ['any', 404, {}, undefined],
  ['azure', 400, { code: 'content_filter', param: 'prompt' }, 'content_filter'],
  ['azure', 404, { code: 'DeploymentNotFound' }, 'model_not_found'],
  [
    'anthropic',
    400,
    { type: 'invalid_request_error', message: 'prompt is too long: 205000 tokens > 200000 maximum' },
    'context_length_exceeded',
  ],
  [
    'anthropic',
    400,
    {
      type: 'invalid_request_error',
      message: 'input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length',
    },
    'context_length_exceeded',
  ],
  ['anthropic', 413, { type: 'request_too_large' }, 'context_length_exceeded'],
  ['anthropic', 404, { type: 'not_found_error', message: 'model: claude-0' }, 'model_not_found'],
  ['anthropic', 400, { type: 'invalid_request_error', message: 'model: claude-0' }, undefined],
  ['anthropic', 403, { type: 'billing_error' }, 'quota_exhausted'],
  [
    'gemini',
    400,
    {
      code: 400,
      status: 'INVALID_ARGUMENT',
      message: 'The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).',
    },
    'context_length_exceeded',
  ],
  [
    'gemini',
    400,
    { code: 400, details: [{ fieldViolations: [{ field: 'generation_config.max_output_tokens' }] }] },
    'invalid_parameter',
    'max_tokens',
  ],
  [
    'gemini',
    404,
    { code: 404, status: 'NOT_FOUND', message: 'models/gemini-0 is not found for API version v1beta, or is not' },
    'model_not_found',
  ],
  ['vertex', 404, { code: 404, message: 'Publisher Model `projects/p/x` was not found.' }, 'model_not_found'],
  ['gemini', 400, { code: 400, details: [{ reason: 'API_KEY_INVALID' }] }, 'credentials'],
  [
    'vllm',
    400,
    { type: 'BadRequestError', code: 400, message: "This model's maximum context length is 4096 tokens. However" },
    'context_length_exceeded',
  ],
  [
    'vllm',
    400,
    { code: 400, message: 'The decoder prompt (length 9) is longer than the maximum model length of 4. Make' },
    'context_length_exceeded',
  ],
  ['vllm', 404, { type: 'NotFoundError', message: 'The model `x` does not exist.' }, 'model_not_found'],
  ['llama.cpp', 400, { code: 400, type: 'exceed_context_size_error' }, 'context_length_exceeded'],
  ['ollama', 404, 'model "x" not found, try pulling it first', 'model_not_found'],
  ['ollama', 404, "model 'x' not found", 'model_not_found'],
  ['ollama', 404, { type: 'api_error', message: "model 'x' not found" }, 'model_not_found'],
  ['mistral', 400, { code: '3051', type: 'invalid_request_error' }, 'context_length_exceeded'],
  ['mistral', 400, { code: '1500', type: 'invalid_model' }, 'model_not_found'],
  ['deepseek', 400, { message: 'Model Not Exist', type: 'invalid_request_error' }, 'model_not_found'],
  ['deepseek', 400, { message: 'Content Exists Risk', type: 'invalid_request_error' }, 'content_filter'],
  [
    'moonshot',
    400,
    { message: 'Invalid request: Your request exceeded model token limit: 8192' },
    'context_length_exceeded',
  ],
  ['moonshot', 404, { type: 'resource_not_found_error' }, 'model_not_found'],
  [
    'dashscope',
    400,
    {
      code: 'invalid_parameter_error',
      message: '<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 98304]',
    },
    'context_length_exceeded',
  ],
  ['dashscope', 400, { code: 'invalid_parameter_error' }, 'invalid_parameter'],
  ['dashscope', 400, { code: 'data_inspection_failed' }, 'content_filter'],
  ['groq', 400, { message: "property 'min_p' is unsupported", type: 'invalid_request_error' }, 'unsupported_parameter'],
  ['openrouter', 400, { code: 400, message: 'x/y is not a valid model ID' }, 'model_not_found'],
  ['openrouter', 404, { code: 404, message: 'No endpoints found that support tool use.' }, 'unsupported_parameter'],
  [
    'openrouter',
    400,
    {
      code: 400,
      message: 'Provider returned error',
      metadata: { raw: '{"type":"error","error":{"type":"x","message":"prompt is too long: 2 tokens > 1 maximum"}}' },
    },
    'context_length_exceeded',
  ],
  ['openrouter', 400, { code: 400, metadata: { raw: 'prompt is too long: 2 tokens > 1 maximum' } }, undefined],
  ['openrouter', 400, { code: 400, metadata: { raw: '{"error":{"code":"invalid_api_key"}}' } }, undefined],
  ['zai', 400, { code: '1261' }, 'context_length_exceeded'],
  ['litellm', 400, { message: 'litellm.ContextWindowExceededError: x', code: '400' }, 'context_length_exceeded'],
];

t.test('a refusal has the reason and the parameter that the provider names', async (t) => {
  for (const [provider, status, error, refusal, param] of REFUSALS) {
    const name = `${provider} ${status} ${JSON.stringify(error)}`;
    const fault = statusError(status, {}, JSON.stringify({ error }));
    t.equal(fault.refusal, refusal, name);
    t.equal(fault.param, param, `${name}: param`);
  }
  const fastApi = statusError(422, {}, '{"detail":[{"loc":["body","temperature"],"msg":"x"}]}');
  t.match(fastApi, { refusal: 'invalid_parameter', param: 'temperature', status: 422 }, 'FastAPI');
  const spent = statusError(429, {}, '{"type":"error","error":{"type":"rate_limit_error"}}');
  t.equal(spent.refusal, 'quota_exhausted', 'a spending limit of Anthropic');
});

t.test('the message says what was refused, in words of Sluice', async (t) => {
  const cases: [object, string][] = [
    [{ code: 'context_length_exceeded' }, ': the question is too long for the model.'],
    [{ code: 'content_filter' }, ': its content filter blocked the question.'],
    [{ code: 'unsupported_value', param: 'temperature' }, ': unsupported parameter temperature.'],
    [{ code: 'invalid_value', param: 'messages[0].SECRET' }, ': invalid parameter messages[0].'],
    [{ code: 'invalid_value' }, ': invalid parameter.'],
    [{ code: 'model_not_found', param: 'model' }, ': unknown model.'],
    [{ code: 'invalid_api_key' }, '.'],
    [{}, '.'],
  ];
  for (const [error, expected] of cases) {
    const { message } = statusError(400, {}, JSON.stringify({ error }));
    t.equal(message, `The provider rejected the request${expected}`);
  }
});

t.test('recorded refusals', { skip: noRecordings }, async (t) => {
  const cases: [file: string, status: number, Expected, param?: string][] = [
    ['anthropic/http-400-too-long.json', 400, 'context_length_exceeded'],
    ['anthropic/http-404-model.json', 404, 'model_not_found'],
    ['anthropic/http-401.json', 401, 'credentials'],
    ['azure/http-429-rate-limit.json', 429, undefined],
    ['bella/http-429-qps.json', 429, undefined],
    ['cohere/http-401.json', 401, 'credentials'],
    ['gemini/http-400-api-key.json', 400, 'credentials'],
    ['gemini/http-400-location.json', 400, undefined],
    ['gemini/http-429-quota.json', 429, undefined],
    ['groq/http-404-model.json', 404, 'model_not_found'],
    ['ollama/http-404-model.json', 404, 'model_not_found'],
    ['openai/http-400-bad-request.json', 400, 'unsupported_parameter', 'max_tokens'],
    ['openai/http-401-invalid-key.json', 401, 'credentials'],
    ['openrouter/http-400-context.json', 400, 'context_length_exceeded'],
    ['openrouter/http-429-upstream.json', 429, undefined],
  ];
  for (const [file, status, refusal, param] of cases) {
    const body = readFileSync(join(resolve(process.env.FIXTURES_DIR ?? '../shared/fixtures'), file), 'utf8');
    const fault = statusError(status, {}, body);
    t.equal(fault.refusal, refusal, file);
    t.equal(fault.param, param, `${file}: param`);
  }
});

t.test('the parameter has its name of Chat Completions, and only known words and numbers', async (t) => {
  const cases: [string, string | undefined][] = [
    ['temperature', 'temperature'],
    ['max_completion_tokens', 'max_completion_tokens'],
    ['messages[3].content[0].image_url.url', 'messages[3].content[0].image_url.url'],
    ['messages.3.content', 'messages.3.content'],
    ['tools[0].function.parameters.properties.patient', 'tools[0].function.parameters'],
    ['metadata.secret', 'metadata'],
    ['max_output_tokens', 'max_tokens'],
    ['text.format', 'response_format'],
    ['text.format.name', 'response_format'],
    ['text.verbosity', 'verbosity'],
    ['reasoning.effort', 'reasoning_effort'],
    ['reasoning', 'reasoning'],
    ['input[2].content', 'messages'],
    ['instructions', 'messages'],
    ['generationConfig.topP', 'top_p'],
    ['generation_config.thinking_config.thinking_budget', 'reasoning_effort'],
    ['generationConfig.temperature', 'temperature'],
    ['contents[0].parts', 'messages'],
    ['output_config.effort', 'reasoning_effort'],
    ['stop_sequences', 'stop'],
    ['options.num_predict', 'max_tokens'],
    ['constructor', undefined],
    ['__proto__', undefined],
    ['secret', undefined],
    ['messages secret', undefined],
    ['Messages', undefined],
    ['', undefined],
    ['messages[0].content'.padEnd(65, 'x'), undefined],
  ];
  for (const [param, expected] of cases) t.equal(publicParam(param), expected, param);
  t.equal(publicParam(undefined), undefined);
});

/** Beginnings of messages that repeat a value of the client. */
const REPEATING = ["Invalid value: '", 'Unrecognized request argument supplied: ', 'messages.0.content: ', '"', ' '];

const words = fc.constantFrom(
  'context_length_exceeded',
  'prompt is too long: 9 tokens > 1 maximum',
  "This model's maximum context length is 1",
  'The input token count exceeds the maximum number of tokens allowed',
  "model 'x' not found",
  'The model `x` does not exist',
  'Content Exists Risk',
  'Model Not Exist',
  'insufficient_quota',
  'credentials',
  'unsupported_parameter',
  'max_tokens',
);
const clientText = fc
  .array(fc.oneof(words, fc.string({ maxLength: 20 })), { minLength: 1, maxLength: 4 })
  .map((parts) => parts.join(' '));

t.test('no text of a client chooses a reason or a parameter', async (t) => {
  fc.assert(
    fc.property(
      fc.constantFrom(...REPEATING),
      clientText,
      fc.constantFrom(400, 404, 413, 422),
      (prefix, said, status) => {
        for (const error of [
          { type: 'invalid_request_error', message: prefix + said },
          { code: status, status: 'INVALID_ARGUMENT', message: prefix + said },
          prefix + said,
        ]) {
          const { refusal, param, reason } = statusError(status, {}, JSON.stringify({ error }));
          t.equal(refusal, undefined);
          t.equal(param, undefined);
          t.equal(reason, `http_${status}`);
          t.equal(inBandError(upstreamDetail({ error })).refusal, undefined);
        }
      },
    ),
  );
});

t.test('nothing that a provider or a client writes leaks through the parameter', async (t) => {
  const allowed = /^[a-z_]+([.[](\d{1,4}|[a-z_]+)\]?)*$/;
  const paramText = fc.oneof(fc.string(), fc.stringMatching(/^(messages|tools|metadata)[.[]\w{1,20}/));
  fc.assert(
    fc.property(paramText, (param) => {
      const fault = statusError(400, {}, JSON.stringify({ error: { code: 'invalid_value', param } }));
      if (fault.param === undefined) return;
      t.match(fault.param, allowed);
      for (const word of fault.param.match(/[a-z_]+/g) ?? [])
        t.ok(publicParam(word) ?? KNOWN_SUBFIELD.test(word), word);
    }),
  );
});
const KNOWN_SUBFIELD =
  /^(arguments|content|description|detail|file|file_data|filename|function|id|image_url|include_usage|json_schema|name|parameters|role|schema|strict|text|tool_call_id|tool_calls|type|url)$/;

/** One refusal inside a stream of each API. */
const IN_BAND: readonly [Dialect, string, RefusalReason, string?][] = [
  [
    'openai-compatible',
    events(openai.chunk({ content: 'partial' }), {
      error: { code: 'unsupported_value', param: 'temperature', type: 'invalid_request_error' },
    }) + DONE,
    'unsupported_parameter',
    'temperature',
  ],
  [
    'bella',
    events({ error: { code: '400', httpCode: 400, message: "This model's maximum context length is 9" } }),
    'context_length_exceeded',
  ],
  [
    'anthropic',
    `${events(anthropic.start())}event: error\n${events({
      type: 'error',
      error: { type: 'invalid_request_error', message: 'prompt is too long: 2 tokens > 1 maximum' },
    })}`,
    'context_length_exceeded',
  ],
  [
    'gemini',
    events(gemini.chunk([{ text: 'x' }]), {
      error: { code: 400, details: [{ fieldViolations: [{ field: 'generationConfig.topK' }] }] },
    }),
    'invalid_parameter',
    'top_k',
  ],
  ['gemini', events({ promptFeedback: { blockReason: 'SAFETY' } }), 'content_filter'],
  ['ollama', lines(ollama.line({ content: 'x' }), { error: "model 'x' not found" }), 'model_not_found'],
];

t.test('a refusal inside a stream has its reason, too, and is not retried', async (t) => {
  const play = await startDialects(t);
  for (const [dialect, body, refusal, param] of IN_BAND) {
    const { error } = await play(dialect, body);
    t.match(error, { refusal, retryable: false }, `${dialect}: ${body}`);
    t.equal((error as ProviderError).param, param, `${dialect}: param`);
  }
});

t.test('a refusal as the answer to a call has its reason in every dialect', async (t) => {
  const play = await startDialects(t);
  for (const dialect of ['openai-compatible', 'bella', 'anthropic', 'gemini', 'ollama'] as const) {
    for (const [, status, error, refusal, param] of REFUSALS.filter((one) => one[1] === 400)) {
      const played = await play(dialect, JSON.stringify({ error }), { status });
      t.match(played.error, { name: 'ProviderError', refusal, param }, `${dialect}: ${JSON.stringify(error)}`);
    }
  }
});
