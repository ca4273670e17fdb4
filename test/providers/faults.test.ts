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

/** Whom an error blames, and what providers put where something else was promised. */

const SPEND_CAP = '{"type":"error","error":{"type":"rate_limit_error","message":"limit"}}';

/** Status, headers, body → code, reason, retryable, status of an answer that does not stream, delay. */
const REFUSALS: [string, number, Record<string, string>, string, object][] = [
  [
    'a bad key as 400 is still ours',
    400,
    {},
    '{"error":{"message":"API key not valid."}}',
    { reason: 'credentials', status: 502, retryable: false },
  ],
  [
    'and in an array',
    400,
    {},
    '[{"error":{"details":[{"reason":"API_KEY_INVALID"}]}}]',
    { reason: 'credentials', status: 502 },
  ],
  [
    'an empty account as 400',
    400,
    {},
    '{"error":{"message":"Your credit balance is too low"}}',
    { reason: 'billing', status: 502, retryable: false },
  ],
  ['an empty account', 402, {}, '{}', { reason: 'billing', status: 502, retryable: false }],
  ['a question that is too long', 413, {}, '<html>', { reason: 'http_413', status: 413, retryable: false }],
  [
    'no money left',
    429,
    { 'retry-after': '1' },
    '{"error":{"code":"insufficient_quota"}}',
    { retryable: false, retryAfterMs: undefined },
  ],
  ['Bella, a month', 429, {}, '{"error":{"message":"已达每月额度上限"}}', { retryable: false }],
  ['Bella, a parent key', 429, {}, '{"error":{"message":"主ak的总额度已达上限, limit:5"}}', { retryable: false }],
  [
    'Bella, a second',
    429,
    { 'retry-after': '1' },
    '{"error":{"message":"QPS 超过限制（当前: 201, 限制: 200）"}}',
    { retryable: true, retryAfterMs: 1000 },
  ],
  ['Anthropic, what may be spent', 429, {}, SPEND_CAP, { retryable: false }],
  ['Anthropic, a minute', 429, { 'retry-after': '12' }, SPEND_CAP, { retryable: true, retryAfterMs: 12_000 }],
  [
    'Google, a delay in words',
    429,
    {},
    '{"error":{"details":[{"retryDelay":"48s"}]}}',
    { retryable: true, retryAfterMs: 48_000 },
  ],
  [
    'OpenAI, the longer reset',
    429,
    { 'x-ratelimit-reset-requests': '120ms', 'x-ratelimit-reset-tokens': '6m0s' },
    '',
    { retryAfterMs: 360_000 },
  ],
  ['a conflict', 409, {}, '', { code: 'upstream_rejected', retryable: true }],
  ['a conflict that says no', 409, { 'x-should-retry': 'false' }, '', { retryable: false }],
  [
    'overloaded',
    529,
    { 'retry-after-ms': '250' },
    '',
    { code: 'upstream_failed', reason: 'http_529', retryable: true, retryAfterMs: 250 },
  ],
  ['not implemented', 501, {}, '', { retryable: false }],
];

t.test('refusals by class', async (t) => {
  for (const [name, status, headers, body, expected] of REFUSALS) {
    t.match(statusError(status, headers, body), expected, name);
  }
});

function decode(create: (parts: PartBuffer) => AnswerDecoder, bytes: string) {
  const parts = createPartBuffer();
  const decoder = create(parts);
  const got = empty();
  try {
    decoder.push(Buffer.from(bytes));
    if (!decoder.done) decoder.end();
    for (const part of parts.flush()) add(got, part);
    add(got, decoder.finish());
  } catch (error) {
    got.error = error;
  }
  return got;
}

const events = (...documents: object[]) => documents.map((one) => `data: ${JSON.stringify(one)}\n\n`).join('');

t.test('null wherever it may stand', async (t) => {
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

t.test('calls without any finish reason', async (t) => {
  const calls = {
    choices: [{ delta: { tool_calls: [{ index: 0, id: 'c', function: { name: 'f', arguments: '{}' } }] } }],
  };
  const got = decode(
    createOpenAIChatDecoder,
    `${events(calls, { choices: [], usage: { prompt_tokens: 1 } })}data: [DONE]\n\n`,
  );
  t.equal(got.finish?.reason, 'tool_calls');
});

t.test('an error inside a 200 that nothing but money or another question mends', async (t) => {
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

t.test('what caches gave is counted under every name', async (t) => {
  const usages: [object, object][] = [
    [{ prompt_tokens_details: { cached_tokens: 3 } }, { cachedTokens: 3 }],
    [{ prompt_cache_hit_tokens: 3 }, { cachedTokens: 3 }],
    [
      { cache_read_tokens: 3, cache_creation_tokens: 4 },
      { cachedTokens: 3, cacheWriteTokens: 4 },
    ],
  ];
  for (const [usage, expected] of usages) {
    const got = decode(createOpenAIChatDecoder, events({ choices: [{ delta: {}, finish_reason: 'stop' }], usage }));
    t.match(got.finish?.usage, expected);
  }
});

t.test('the head of a call goes on in one piece', async (t) => {
  const parts = createPartBuffer();
  const decoder = createOpenAIChatDecoder(parts);
  const call = (one: object) =>
    decoder.push(Buffer.from(events({ choices: [{ delta: { tool_calls: [{ index: 0, ...one }] } }] })));
  call({ id: 'c' });
  call({ id: '', function: { name: 'f', arguments: '' } });
  call({ function: { arguments: '{}' } });
  t.same(parts.flush(), [
    { type: 'tool_call', index: 0, id: 'c', name: 'f', arguments: '' },
    { type: 'tool_call', index: 0, arguments: '{}' },
  ]);
});
