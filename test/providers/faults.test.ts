import t from 'tap';
import { ProviderError } from '../../providers/errors.ts';
import { createOllamaDecoder } from '../../providers/ollama.ts';
import { createAnthropicDecoder } from '../../providers/wire/anthropic-stream.ts';
import { createGeminiDecoder } from '../../providers/wire/gemini-stream.ts';
import { createOpenAIChatDecoder } from '../../providers/wire/openai-chat.ts';
import { createPartBuffer, type PartBuffer } from '../../providers/wire/parts.ts';
import type { AnswerDecoder } from '../../providers/wire/read-answer.ts';
import { statusError } from '../../providers/wire/status-error.ts';
import { add, empty } from './collect.ts';

/** Tests how errors are classified, and how decoders handle values that the API documents do not allow. */

const ANTHROPIC_RATE_LIMIT = '{"type":"error","error":{"type":"rate_limit_error","message":"limit"}}';

/** Name, status, headers and body of a response; the expected fields of its ProviderError. */
const ERROR_RESPONSES: [string, number, Record<string, string>, string, object][] = [
  [
    'a 400 for an invalid key is a credentials error',
    400,
    {},
    '{"error":{"message":"API key not valid."}}',
    { reason: 'credentials', status: 502, retryable: false },
  ],
  [
    'a 400 for an invalid key, in an array',
    400,
    {},
    '[{"error":{"details":[{"reason":"API_KEY_INVALID"}]}}]',
    { reason: 'credentials', status: 502 },
  ],
  [
    'a 400 for an account without credit is a billing error',
    400,
    {},
    '{"error":{"message":"Your credit balance is too low"}}',
    { reason: 'billing', status: 502, retryable: false },
  ],
  ['402 is a billing error', 402, {}, '{}', { reason: 'billing', status: 502, retryable: false }],
  ['413 is reported as 413', 413, {}, '<html>', { reason: 'http_413', status: 413, retryable: false }],
  [
    'insufficient_quota is not retryable',
    429,
    { 'retry-after': '1' },
    '{"error":{"code":"insufficient_quota"}}',
    { retryable: false, retryAfterMs: undefined },
  ],
  [
    'Bella: the monthly quota is not retryable',
    429,
    {},
    '{"error":{"message":"已达每月额度上限"}}',
    { retryable: false },
  ],
  [
    'Bella: the quota of the parent key is not retryable',
    429,
    {},
    '{"error":{"message":"主ak的总额度已达上限, limit:5"}}',
    { retryable: false },
  ],
  [
    'Bella: the limit per second is retryable',
    429,
    { 'retry-after': '1' },
    '{"error":{"message":"QPS 超过限制（当前: 201, 限制: 200）"}}',
    { retryable: true, retryAfterMs: 1000 },
  ],
  ['Anthropic: a 429 without Retry-After is not retryable', 429, {}, ANTHROPIC_RATE_LIMIT, { retryable: false }],
  [
    'Anthropic: a 429 with Retry-After is retryable',
    429,
    { 'retry-after': '12' },
    ANTHROPIC_RATE_LIMIT,
    { retryable: true, retryAfterMs: 12_000 },
  ],
  [
    'Google: retryDelay gives the delay',
    429,
    {},
    '{"error":{"details":[{"retryDelay":"48s"}]}}',
    { retryable: true, retryAfterMs: 48_000 },
  ],
  [
    'OpenAI: the longer of two resets gives the delay',
    429,
    { 'x-ratelimit-reset-requests': '120ms', 'x-ratelimit-reset-tokens': '6m0s' },
    '',
    { retryAfterMs: 360_000 },
  ],
  ['409 is retryable', 409, {}, '', { code: 'upstream_rejected', retryable: true }],
  ['x-should-retry: false is not retryable', 409, { 'x-should-retry': 'false' }, '', { retryable: false }],
  [
    '529 with retry-after-ms',
    529,
    { 'retry-after-ms': '250' },
    '',
    { code: 'upstream_failed', reason: 'http_529', retryable: true, retryAfterMs: 250 },
  ],
  ['501 is not retryable', 501, {}, '', { retryable: false }],
];

t.test('error responses are classified by status, headers and body', async (t) => {
  for (const [name, status, headers, body, expected] of ERROR_RESPONSES) {
    t.match(statusError(status, headers, body), expected, name);
  }
});

function decode(create: (parts: PartBuffer) => AnswerDecoder, bytes: string) {
  const parts = createPartBuffer();
  const decoder = create(parts);
  const collected = empty();
  try {
    decoder.push(Buffer.from(bytes));
    if (!decoder.done) decoder.end();
    for (const part of parts.flush()) add(collected, part);
    add(collected, decoder.finish());
  } catch (error) {
    collected.error = error;
  }
  return collected;
}

const events = (...documents: object[]) =>
  documents.map((document) => `data: ${JSON.stringify(document)}\n\n`).join('');

t.test('decoders accept null for any field', async (t) => {
  const openai = decode(
    createOpenAIChatDecoder,
    events(
      { choices: [null] },
      { choices: [{ delta: { content: null, tool_calls: [null] } }] },
      { choices: [{ delta: { content: 'ok' }, finish_reason: 'stop' }] },
    ),
  );
  t.match(openai, { text: 'ok', finish: { reason: 'stop' }, error: undefined }, 'Chat Completions');

  const gemini = decode(
    createGeminiDecoder,
    events(
      { candidates: null, promptFeedback: { blockReason: null }, usageMetadata: null },
      { candidates: [null, { index: null, content: null }] },
      { candidates: [{ content: { parts: [null, { text: null, functionCall: null }, { text: 'ok' }] } }] },
      {
        candidates: [
          { content: { parts: [{ functionCall: { id: null, name: 'f', args: null } }] }, finishReason: 'STOP' },
        ],
      },
    ),
  );
  t.match(
    gemini,
    { text: 'ok', toolCalls: [{ id: null, name: 'f', arguments: '{}' }], finish: { reason: 'tool_calls' } },
    'Gemini',
  );

  const anthropic = decode(
    createAnthropicDecoder,
    events(
      { type: 'message_start', message: { usage: null } },
      { type: 'content_block_start', index: 0, content_block: { type: 'tool_use', id: null, name: 'f', input: null } },
      { type: 'content_block_delta', index: 0, delta: { type: 'input_json_delta', partial_json: null } },
      { type: 'content_block_delta', index: 1, delta: null },
      { type: 'message_delta', delta: { stop_reason: 'tool_use' }, usage: null },
      { type: 'message_stop' },
    ),
  );
  t.match(
    anthropic,
    { toolCalls: [{ id: null, name: 'f' }], finish: { reason: 'tool_calls' }, error: undefined },
    'Anthropic',
  );

  const ollama = decode(
    createOllamaDecoder,
    '{"message":null}\n{"message":{"content":null,"tool_calls":[null,{"function":null}]}}\n{"done":true,"done_reason":null}\n',
  );
  t.match(ollama, { text: '', finish: { reason: 'tool_calls' }, error: undefined }, 'Ollama');
});

t.test('tool calls without a finish reason end with tool_calls', async (t) => {
  const calls = {
    choices: [{ delta: { tool_calls: [{ index: 0, id: 'c', function: { name: 'f', arguments: '{}' } }] } }],
  };
  const collected = decode(
    createOpenAIChatDecoder,
    `${events(calls, { choices: [], usage: { prompt_tokens: 1 } })}data: [DONE]\n\n`,
  );
  t.equal(collected.finish?.reason, 'tool_calls');
});

t.test('an in-band error that a retry cannot fix is not retryable', async (t) => {
  const errors = [
    { type: 'insufficient_quota', code: 'insufficient_quota' },
    { code: 'context_length_exceeded', httpCode: 400 },
    { code: 'tool_use_failed', status_code: 400 },
    { type: 'invalid_request_error' },
  ];
  for (const error of errors) {
    const { error: fault } = decode(createOpenAIChatDecoder, events({ error }));
    t.ok(fault instanceof ProviderError);
    t.match(fault, { code: 'upstream_error', retryable: false }, JSON.stringify(error));
  }
});

t.test('cached tokens are read from the field names of every provider', async (t) => {
  const usages: [object, object][] = [
    [{ prompt_tokens_details: { cached_tokens: 3 } }, { cachedTokens: 3 }],
    [{ prompt_cache_hit_tokens: 3 }, { cachedTokens: 3 }],
    [
      { cache_read_tokens: 3, cache_creation_tokens: 4 },
      { cachedTokens: 3, cacheWriteTokens: 4 },
    ],
  ];
  for (const [usage, expected] of usages) {
    const { finish } = decode(
      createOpenAIChatDecoder,
      events({ choices: [{ delta: {}, finish_reason: 'stop' }], usage }),
    );
    t.match(finish?.usage, expected, JSON.stringify(usage));
  }
});

t.test('id and name of a tool call that arrive separately become one part', async (t) => {
  const parts = createPartBuffer();
  const decoder = createOpenAIChatDecoder(parts);
  const push = (toolCall: object) =>
    decoder.push(Buffer.from(events({ choices: [{ delta: { tool_calls: [{ index: 0, ...toolCall }] } }] })));
  push({ id: 'c' });
  push({ id: '', function: { name: 'f', arguments: '' } });
  push({ function: { arguments: '{}' } });
  t.same(parts.flush(), [
    { type: 'tool_call', index: 0, id: 'c', name: 'f', arguments: '' },
    { type: 'tool_call', index: 0, arguments: '{}' },
  ]);
});
