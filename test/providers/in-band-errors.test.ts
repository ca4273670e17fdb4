import t from 'tap';
import type { ProviderError } from '../../providers/errors.ts';
import { anthropic, type Dialect, DONE, events, gemini, lines, ollama, openai, startDialects } from './dialects.ts';

/** Tests errors that a provider reports inside a response with status 200. */

const SECRET = 'SECRET detail of the provider';

/** The error objects that each API sends, and whether the same question may succeed later. */
const ERRORS: [Dialect, [error: unknown, retryable: boolean][]][] = [
  [
    'openai-compatible',
    [
      [{ message: SECRET }, true],
      [SECRET, true],
      [{ type: 'server_error', code: 500 }, true],
      [{ code: 503 }, true],
      [{ code: 529 }, true],
      [{ type: 'too_many_requests', code: 429 }, true],
      [{ code: '429' }, true],
      [{ code: 408 }, true],
      [{ code: 409 }, true],
      [{ code: 425 }, true],
      [{ code: 400 }, false],
      [{ code: '400' }, false],
      [{ code: 401 }, false],
      [{ code: 403 }, false],
      [{ code: 404 }, false],
      [{ code: 413 }, false],
      [{ code: 422 }, false],
      [{ code: 498 }, false],
      [{ code: 'rate_limit_exceeded' }, true],
      [{ code: 'context_length_exceeded', httpCode: 400 }, false],
      [{ code: 'tool_use_failed', status_code: 400 }, false],
      [{ code: 'some_word', httpCode: 503 }, true],
      [{ code: 429, httpCode: 400 }, true],
      [{ code: null, httpCode: 404 }, false],
      [{ type: 'invalid_request_error' }, false],
      [{ type: 'insufficient_quota' }, false],
      [{ code: 'insufficient_quota' }, false],
      [{ message: 'You exceeded your monthly quota' }, false],
    ],
  ],
  [
    'bella',
    [
      [{ code: '429', httpCode: 429, message: 'QPS 超过限制（当前: 201, 限制: 200）' }, true],
      [{ code: '429', httpCode: 429, message: '已达每月额度上限' }, false],
      [{ code: '400', httpCode: 400 }, false],
      [{ code: 'x', httpCode: 502 }, true],
    ],
  ],
  [
    'anthropic',
    [
      [{ type: 'overloaded_error', message: SECRET }, true],
      [{ type: 'api_error' }, true],
      [{ type: 'rate_limit_error' }, true],
      [{ type: 'timeout_error' }, true],
      [{ type: 'invalid_request_error', message: SECRET }, false],
      [{ type: 'authentication_error' }, false],
      [{ type: 'permission_error' }, false],
      [{ type: 'not_found_error' }, false],
      [{ type: 'billing_error' }, false],
      [{ type: 'request_too_large' }, false],
      [{ type: 'api_error', message: 'Your credit balance is too low' }, false],
      [null, true],
    ],
  ],
  [
    'gemini',
    [
      [{ code: 429, status: 'RESOURCE_EXHAUSTED', message: SECRET }, true],
      [{ code: 499, status: 'CANCELLED' }, true],
      [{ code: 500, status: 'INTERNAL' }, true],
      [{ code: 503, status: 'UNAVAILABLE' }, true],
      [{ code: 400, status: 'INVALID_ARGUMENT' }, false],
      [{ code: 403, status: 'PERMISSION_DENIED' }, false],
    ],
  ],
  [
    'ollama',
    [
      [SECRET, true],
      [{ message: SECRET }, true],
      [{ code: 400, message: SECRET }, false],
      [{ code: 429 }, true],
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
      for (const [error, retryable] of errors) {
        const name = JSON.stringify(error);
        const outcome = await play(dialect, BODIES[dialect](error));
        t.match(outcome.error, { name: 'ProviderError', code: 'upstream_error', reason: 'in_band', status: 502 }, name);
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
    ['a line with text', 'ollama', lines(ollama.line({ content: 'partial' }), { error, message: { content: 'lost' } })],
  ];
  for (const [name, dialect, body] of forms) {
    const outcome = await play(dialect, body);
    t.match(outcome.error, { code: 'upstream_error', reason: 'in_band', retryable: false }, `${dialect}: ${name}`);
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
