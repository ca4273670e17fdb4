import t from 'tap';
import type { FinishReason } from '../../providers/types.ts';
import { anthropic, type Dialect, DONE, events, gemini, lines, ollama, openai, startDialects } from './dialects.ts';

/** Tests which finish reason of Sluice each finish reason of a provider becomes. */

const ANSWERS: Record<string, (finish: string) => string> = {
  'openai-compatible': openai.answer,
  bella: openai.answer,
  anthropic: anthropic.answer,
  gemini: gemini.answer,
  ollama: ollama.answer,
};

/** Raw reasons by the reason of Sluice. */
const REASONS: [Dialect, Partial<Record<FinishReason, string[]>>][] = [
  [
    'openai-compatible',
    {
      stop: ['stop', 'STOP', 'complete', 'COMPLETE', 'end_turn', 'stop_sequence'],
      length: ['length', 'max_tokens', 'model_length', 'MAX_TOKENS'],
      tool_calls: ['tool_calls', 'function_call', 'tool_call', 'TOOL_CALL', 'tool_use'],
      content_filter: ['content_filter', 'sensitive', 'guardrail_intervened', 'SAFETY'],
      other: ['a_reason_of_tomorrow'],
    },
  ],
  ['bella', { stop: ['stop'], length: ['length'], tool_calls: ['tool_calls'], content_filter: ['content_filter'] }],
  [
    'anthropic',
    {
      stop: ['end_turn', 'stop_sequence'],
      length: ['max_tokens'],
      tool_calls: ['tool_use'],
      content_filter: ['refusal'],
      other: ['pause_turn'],
    },
  ],
  [
    'gemini',
    {
      stop: ['STOP'],
      length: ['MAX_TOKENS'],
      content_filter: ['SAFETY', 'RECITATION', 'LANGUAGE', 'BLOCKLIST', 'PROHIBITED_CONTENT', 'SPII', 'IMAGE_SAFETY'],
      other: ['OTHER'],
    },
  ],
  ['ollama', { stop: ['stop'], length: ['length'], other: ['load'] }],
];

t.test('each finish reason is mapped, and the raw reason is kept', async (t) => {
  const play = await startDialects(t);
  for (const [dialect, byReason] of REASONS) {
    for (const [reason, raws] of Object.entries(byReason)) {
      for (const raw of raws) {
        const { text, finish, error } = await play(dialect, (ANSWERS[dialect] as (finish: string) => string)(raw));
        t.equal(error, undefined, `${dialect} ${raw}: no error`);
        t.same(finish, { type: 'finish', reason, rawReason: raw }, `${dialect} ${raw}`);
        t.equal(text, 'x', `${dialect} ${raw}: text`);
      }
    }
  }
});

t.test('a finish reason that names a failure is an error, and the text before it is kept', async (t) => {
  const play = await startDialects(t);
  for (const raw of ['error', 'ERROR', 'network_error', 'insufficient_system_resource']) {
    const { text, finish, error } = await play('openai-compatible', openai.answer(raw));
    t.match(error, { code: 'upstream_error', reason: 'finish_reason', retryable: true }, raw);
    t.equal(text, 'x');
    t.equal(finish, undefined, `${raw}: no finish part`);
  }
});

t.test('a refusal of the model is text that is marked, with the finish reason of the provider', async (t) => {
  const play = await startDialects(t);
  const refusal = (text: unknown) => openai.chunk({ refusal: text });
  for (const dialect of ['openai-compatible', 'bella'] as const) {
    for (const raw of ['stop', 'length']) {
      const { finish, text } = await play(dialect, openai.answer(raw, refusal("I'm sorry"), refusal(' no')));
      t.match(finish, { type: 'finish', reason: raw }, `${dialect} ${raw}`);
      t.equal(text, "xI'm sorry no", 'the text is kept');
    }
    const withUsage = await play(
      dialect,
      events(
        openai.chunk({ role: 'assistant', content: '', refusal: 'No.' }),
        openai.chunk({}, 'stop'),
        openai.usage({ prompt_tokens: 3 }),
      ) + DONE,
    );
    t.match(withUsage.finish, { reason: 'stop', usage: { inputTokens: 3 } }, `${dialect}: usage is kept`);
    for (const none of [null, '']) {
      const { finish } = await play(dialect, openai.answer('stop', refusal(none)));
      t.equal(finish?.reason, 'stop', `${dialect}: ${JSON.stringify(none)} is no refusal`);
    }
  }
});

t.test('stop behind a tool call is tool_calls for APIs that have no reason of their own', async (t) => {
  const play = await startDialects(t);
  const call = { functionCall: { name: 'f', args: {} } };
  const geminiCall = await play('gemini', events(gemini.chunk([call]), gemini.chunk([], 'STOP')));
  t.match(geminiCall.finish, { reason: 'tool_calls', rawReason: 'STOP' });
  const geminiLength = await play('gemini', events(gemini.chunk([call]), gemini.chunk([], 'MAX_TOKENS')));
  t.match(geminiLength.finish, { reason: 'length' }, 'other reasons are kept');
  const toolCalls = [{ function: { name: 'f', arguments: {} } }];
  const ollamaCall = await play('ollama', lines(ollama.line({ tool_calls: toolCalls }), ollama.end('stop')));
  t.match(ollamaCall.finish, { reason: 'tool_calls', rawReason: 'stop' });
  const ollamaLength = await play('ollama', lines(ollama.line({ tool_calls: toolCalls }), ollama.end('length')));
  t.match(ollamaLength.finish, { reason: 'length' }, 'other reasons are kept');
});

t.test('an answer without a finish reason is stop, or tool_calls behind a tool call', async (t) => {
  const play = await startDialects(t);
  const usage = openai.usage({ prompt_tokens: 1 });
  const text = await play('openai-compatible', events(openai.chunk({ content: 'x' }), usage) + DONE);
  t.same(text.finish, { type: 'finish', reason: 'stop', usage: { inputTokens: 1 } }, 'Snowflake');
  const call = openai.chunk({ tool_calls: [{ index: 0, id: 'c', function: { name: 'f', arguments: '{}' } }] });
  const tool = await play('openai-compatible', events(call, usage) + DONE);
  t.same(tool.finish, { type: 'finish', reason: 'tool_calls', usage: { inputTokens: 1 } });
  const done = await play('ollama', lines(ollama.line({ content: 'x' }), ollama.end(null)));
  t.same(done.finish, { type: 'finish', reason: 'stop' }, 'Ollama');
});

t.test('an empty or null finish reason is none', async (t) => {
  const play = await startDialects(t);
  const chat = await play(
    'openai-compatible',
    events(
      openai.chunk({ content: 'x' }, ''),
      openai.chunk({ content: 'y' }, null),
      openai.chunk({}, 'length'),
      openai.chunk({}, ''),
    ),
  );
  t.match(chat, { text: 'xy', finish: { reason: 'length', rawReason: 'length' }, error: undefined });
  const messages = await play(
    'anthropic',
    events(
      anthropic.start(),
      ...anthropic.text('x'),
      { type: 'message_delta', delta: { stop_reason: 'max_tokens' } },
      ...anthropic.end(null),
    ),
  );
  t.match(messages, { text: 'x', finish: { reason: 'length', rawReason: 'max_tokens' } });
  for (const [dialect, body] of [
    ['openai-compatible', events(openai.chunk({ content: 'x' }, ''))],
    ['anthropic', events(anthropic.start(), ...anthropic.text('x'))],
    ['gemini', events(gemini.chunk([{ text: 'x' }]))],
    ['ollama', lines(ollama.line({ content: 'x' }))],
  ] as const) {
    const { text, finish, error } = await play(dialect, body);
    t.match(error, { code: 'upstream_truncated', reason: 'truncated', retryable: true }, `${dialect}: not complete`);
    t.equal(text, 'x', `${dialect}: the text is kept`);
    t.equal(finish, undefined);
  }
});

t.test('an answer is complete without the event that ends the stream', async (t) => {
  const play = await startDialects(t);
  const chat = await play('openai-compatible', openai.answer('stop').replace(DONE, ''));
  t.match(chat, { text: 'x', finish: { reason: 'stop' }, error: undefined }, 'no [DONE]');
  const [delta] = anthropic.end('end_turn');
  const messages = await play('anthropic', events(anthropic.start(), ...anthropic.text('x'), delta));
  t.match(messages, { text: 'x', finish: { reason: 'stop' }, error: undefined }, 'no message_stop');
});

t.test('the last of several finish reasons counts: Gemini may send one with each chunk', async (t) => {
  const play = await startDialects(t);
  const body = events(
    gemini.chunk([{ text: 'x' }], 'STOP'),
    gemini.chunk([{ text: 'y' }], 'MAX_TOKENS'),
    gemini.chunk([]),
  );
  t.match(await play('gemini', body), { text: 'xy', finish: { reason: 'length', rawReason: 'MAX_TOKENS' } });
});
