import t from 'tap';
import type { ProviderError } from '../../providers/errors.ts';
import { anthropic, type Dialect, DONE, events, gemini, lines, ollama, openai, startDialects } from './dialects.ts';

/** Tests errors that a provider reports inside a response with status 200. */

const SECRET = 'SECRET detail of the provider';

/** The error objects that each API sends, and the reason by what they concern. */
const ERRORS: [Dialect, [error: unknown, reason: string][]][] = [
  [
    'openai-compatible',
    [
      [{ message: SECRET }, 'in_band'],
      [SECRET, 'in_band'],
      [{ type: 'server_error', code: 500 }, 'in_band'],
      [{ code: 503 }, 'overloaded'],
      [{ code: 529 }, 'overloaded'],
      [{ type: 'too_many_requests', code: 429 }, 'rate_limited'],
      [{ code: '429' }, 'rate_limited'],
      [{ code: 408 }, 'in_band'],
      [{ code: 409 }, 'in_band'],
      [{ code: 425 }, 'in_band'],
      [{ code: 400 }, 'in_band_request'],
      [{ code: '400' }, 'in_band_request'],
      [{ code: 401 }, 'credentials'],
      [{ code: 403 }, 'in_band_request'],
      [{ code: 404 }, 'in_band_request'],
      [{ code: 413 }, 'in_band_request'],
      [{ code: 422 }, 'in_band_request'],
      [{ code: 498 }, 'in_band_request'],
      [{ code: 'rate_limit_exceeded' }, 'rate_limited'],
      [{ code: 'context_length_exceeded', httpCode: 400 }, 'in_band_request'],
      [{ code: 'tool_use_failed', status_code: 400 }, 'in_band_request'],
      [{ code: 'some_word', httpCode: 503 }, 'overloaded'],
      [{ code: 429, httpCode: 400 }, 'rate_limited'],
      [{ code: null, httpCode: 404 }, 'in_band_request'],
      [{ type: 'invalid_request_error' }, 'in_band_request'],
      [{ type: 'insufficient_quota' }, 'billing'],
      [{ code: 'insufficient_quota' }, 'billing'],
      [{ message: 'You exceeded your monthly quota' }, 'in_band'],
    ],
  ],
  [
    'bella',
    [
      [{ code: '429', httpCode: 429, message: 'QPS 超过限制（当前: 201, 限制: 200）' }, 'rate_limited'],
      [{ code: '429', httpCode: 429, message: '已达每月额度上限' }, 'billing'],
      [{ code: '400', httpCode: 400 }, 'in_band_request'],
      [{ code: 'x', httpCode: 502 }, 'in_band'],
    ],
  ],
  [
    'anthropic',
    [
      [{ type: 'overloaded_error', message: SECRET }, 'overloaded'],
      [{ type: 'api_error' }, 'in_band'],
      [{ type: 'rate_limit_error' }, 'rate_limited'],
      [{ type: 'timeout_error' }, 'in_band'],
      [{ type: 'invalid_request_error', message: SECRET }, 'in_band_request'],
      [{ type: 'authentication_error' }, 'credentials'],
      [{ type: 'permission_error' }, 'in_band_request'],
      [{ type: 'not_found_error' }, 'in_band_request'],
      [{ type: 'billing_error' }, 'billing'],
      [{ type: 'request_too_large' }, 'in_band_request'],
      [{ type: 'api_error', message: 'Your credit balance is too low' }, 'in_band'],
      [null, 'in_band'],
    ],
  ],
  [
    'gemini',
    [
      [{ code: 429, status: 'RESOURCE_EXHAUSTED', message: SECRET }, 'rate_limited'],
      [{ code: 499, status: 'CANCELLED' }, 'in_band'],
      [{ code: 500, status: 'INTERNAL' }, 'in_band'],
      [{ code: 503, status: 'UNAVAILABLE' }, 'overloaded'],
      [{ code: 400, status: 'INVALID_ARGUMENT' }, 'in_band_request'],
      [{ code: 403, status: 'PERMISSION_DENIED' }, 'in_band_request'],
    ],
  ],
  [
    'ollama',
    [
      [SECRET, 'in_band'],
      [{ message: SECRET }, 'in_band'],
      [{ code: 400, message: SECRET }, 'in_band_request'],
      [{ code: 429 }, 'rate_limited'],
    ],
  ],
];

/** A partial answer, followed by the error. */
const BODIES: Record<Dialect, (error: unknown) => string> = {
  'openai-compatible': (error) => events(openai.chunk({ content: 'partial' }), { error }) + DONE,
  bella: (error) => events(openai.chunk({ content: 'partial' }), { error, choices: [] }),
  anthropic: (error) =>
    `${events(anthropic.start(), ...anthropic.text('partial'))}event: error\n${events({ type: 'error', error })}`,
  gemini: (error) => events(gemini.chunk([{ text: 'partial' }]), { error }),
  ollama: (error) => lines(ollama.line({ content: 'partial' }), { error }),
};

for (const [dialect, errors] of ERRORS) {
  t.test(
    `${dialect}: an error inside the answer is upstream_error, and retryable unless a retry fails again`,
    async (t) => {
      const play = await startDialects(t);
      for (const [error, reason] of errors) {
        const name = JSON.stringify(error);
        const outcome = await play(dialect, BODIES[dialect](error));
        t.match(outcome.error, { name: 'ProviderError', code: 'upstream_error', reason, status: 502 }, name);
        const retryable = ['rate_limited', 'overloaded', 'in_band'].includes(reason);
        t.equal((outcome.error as ProviderError).retryable, retryable, `${name}: retryable`);
        t.equal(outcome.text, 'partial', `${name}: the text before the error is kept`);
        t.equal(outcome.finish, undefined, `${name}: no finish part`);
        t.notMatch(String(outcome.error), /SECRET/, `${name}: the message of the provider is not exposed`);
        if (name.includes(SECRET)) t.equal((outcome.error as ProviderError).upstream?.message, SECRET, 'but kept');
      }
    },
  );
}

t.test('an error counts in each form in which it is sent', async (t) => {
  const play = await startDialects(t);
  const error = { message: SECRET, code: 400 };
  const partial = events(openai.chunk({ content: 'partial' }));
  const forms: [string, Dialect, string][] = [
    ['an error event with an error', 'openai-compatible', `${partial}event: error\n${events({ error })}`],
    ['an error event with the fields of the error', 'openai-compatible', `${partial}event: error\n${events(error)}`],
    ['an object of its own', 'openai-compatible', partial + events({ object: 'error', ...error })],
    [
      'inside a chunk with text',
      'openai-compatible',
      partial + events(openai.chunk({ content: '' }, 'stop', { error })),
    ],
    ['a flag beside the fields', 'openai-compatible', partial + events({ error: true, ...error })],
    ['fields of which one is empty', 'openai-compatible', partial + events({ error_message: '', ...error })],
    ['an SSE field', 'openai-compatible', `${partial}error: ${JSON.stringify(error)}\n\n`],
    ['a JSON document behind the events', 'openai-compatible', partial + JSON.stringify({ error }, null, 2)],
    ['behind the finish reason', 'openai-compatible', events(openai.chunk({ content: 'partial' }, 'stop'), { error })],
    ['an error event', 'gemini', `${events(gemini.chunk([{ text: 'partial' }]))}event: error\n${events(error)}`],
    ['behind the finish reason', 'gemini', events(gemini.chunk([{ text: 'partial' }], 'STOP'), { error })],
    [
      'a JSON document behind the events',
      'gemini',
      events(gemini.chunk([{ text: 'partial' }], 'STOP')) + JSON.stringify({ error }, null, 2),
    ],
    [
      'an event without a name',
      'anthropic',
      events(anthropic.start(), ...anthropic.text('partial'), { type: 'error', error }),
    ],
    [
      'an error event without a type',
      'anthropic',
      `${events(anthropic.start(), ...anthropic.text('partial'))}event: error\n${events({ error })}`,
    ],
    ['a line with the fields of the error', 'ollama', lines(ollama.line({ content: 'partial' }), error)],
    ['a line with text', 'ollama', lines(ollama.line({ content: 'partial' }), { error, message: { content: 'lost' } })],
  ];
  for (const [name, dialect, body] of forms) {
    const outcome = await play(dialect, body);
    t.match(
      outcome.error,
      { code: 'upstream_error', reason: 'in_band_request', retryable: false },
      `${dialect}: ${name}`,
    );
    t.equal((outcome.error as ProviderError).upstream?.message, SECRET, `${dialect}: ${name}: message`);
    t.equal(outcome.text, 'partial', `${dialect}: ${name}: text`);
  }
  const text = await play('openai-compatible', `${partial}event: error\ndata: overloaded\n\n`);
  t.match(text.error, { code: 'upstream_error', retryable: true }, 'an error event without JSON');
});

t.test('error: null is no error', async (t) => {
  const play = await startDialects(t);
  const bodies: [Dialect, string][] = [
    ['openai-compatible', events(openai.chunk({ content: 'x' }, 'stop', { error: null }))],
    ['gemini', events(gemini.chunk([{ text: 'x' }], 'STOP', { error: null }))],
    ['ollama', lines({ error: null, message: { content: 'x' } }, ollama.end('stop', { error: null }))],
  ];
  for (const [dialect, body] of bodies) t.match(await play(dialect, body), { text: 'x', error: undefined }, dialect);
});

t.test('a prompt that the filter of Gemini blocks is rejected, and not retried', async (t) => {
  const play = await startDialects(t);
  const blocked = { promptFeedback: { blockReason: 'SAFETY' }, usageMetadata: { promptTokenCount: 3 } };
  t.match((await play('gemini', events(blocked))).error, {
    code: 'upstream_rejected',
    reason: 'prompt_blocked',
    retryable: false,
  });
  const unblocked = events({ promptFeedback: { blockReason: null } }, gemini.chunk([{ text: 'x' }], 'STOP'));
  t.match(await play('gemini', unblocked), { text: 'x', error: undefined });
});
