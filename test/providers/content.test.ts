import t from 'tap';
import { anthropic, type Dialect, DONE, events, gemini, lines, ollama, openai, startDialects } from './dialects.ts';

/** Tests how text and reasoning of each API become parts. */

const ANSWERS: [Dialect, string][] = [
  [
    'openai-compatible',
    events(
      openai.chunk({ role: 'assistant', content: '' }),
      openai.chunk({ reasoning_content: 'hm', content: null }),
      openai.chunk({ reasoning_content: ' so', content: '' }),
      openai.chunk({ content: 'one ', reasoning_content: null }),
      openai.chunk({ content: 'two' }),
      openai.chunk({}, 'stop'),
    ) + DONE,
  ],
  [
    'bella',
    events(
      openai.chunk({ reasoning_content: 'hm' }),
      openai.chunk({ reasoning_content: ' so' }),
      openai.chunk({ content: 'one ' }),
      openai.chunk({ content: 'two' }),
      openai.chunk({}, 'stop'),
    ),
  ],
  [
    'anthropic',
    events(
      anthropic.start(),
      anthropic.block(0, { type: 'thinking', thinking: '' }),
      anthropic.delta(0, { type: 'thinking_delta', thinking: 'hm' }),
      anthropic.delta(0, { type: 'thinking_delta', thinking: ' so' }),
      anthropic.delta(0, { type: 'signature_delta', signature: 'abc' }),
      anthropic.stop(0),
      { type: 'ping' },
      anthropic.block(1, { type: 'text', text: '' }),
      anthropic.delta(1, { type: 'text_delta', text: 'one ' }),
      { type: 'an_event_of_tomorrow', delta: { type: 'text_delta', text: 'lost' } },
      anthropic.delta(1, { type: 'text_delta', text: 'two' }),
      anthropic.stop(1),
      ...anthropic.end('end_turn'),
    ),
  ],
  [
    'gemini',
    events(
      gemini.chunk([{ text: 'hm', thought: true }]),
      gemini.chunk([{ text: ' so', thought: true }, { text: 'one ' }]),
      gemini.chunk([{ text: 'two', thought: false }, { text: '' }], 'STOP'),
    ),
  ],
  [
    'ollama',
    lines(
      ollama.line({ thinking: 'hm' }),
      ollama.line({ thinking: ' so', content: '' }),
      ollama.line({ content: 'one ' }),
      ollama.line({ content: 'two', thinking: '' }),
      ollama.end('stop'),
    ),
  ],
];

t.test('text and reasoning become parts in their order, and text of one read is one part', async (t) => {
  const play = await startDialects(t);
  for (const [dialect, body] of ANSWERS) {
    const { parts, error, finishing } = await play(dialect, body);
    t.equal(error, undefined, `${dialect}: no error`);
    t.ok(finishing <= 1, `${dialect}: the end is announced at most once`);
    t.same(
      parts.slice(0, -1),
      [
        { type: 'reasoning', text: 'hm so' },
        { type: 'text', text: 'one two' },
      ],
      dialect,
    );
    t.equal(parts.at(-1)?.type, 'finish', `${dialect}: the finish part is the last`);
  }
});

t.test('no part is empty, and an answer may have no content', async (t) => {
  const play = await startDialects(t);
  const bodies: [Dialect, string][] = [
    ['openai-compatible', events(openai.chunk({ content: '', reasoning_content: '' }), openai.chunk({}, 'length'))],
    ['anthropic', events(anthropic.start(), ...anthropic.text(''), ...anthropic.end('max_tokens'))],
    ['gemini', events(gemini.chunk([{ text: '' }, { text: '', thought: true }], 'MAX_TOKENS'))],
    ['ollama', lines(ollama.line({ content: '', thinking: '' }), ollama.end('length'))],
  ];
  for (const [dialect, body] of bodies) {
    const { parts } = await play(dialect, body);
    t.match(parts, [{ type: 'finish', reason: 'length' }], dialect);
    t.equal(parts.length, 1, `${dialect}: only the finish part`);
  }
});

t.test('Chat Completions: reasoning may be in `reasoning`, and blocks of content are read', async (t) => {
  const play = await startDialects(t);
  const blocks = [
    {
      type: 'thinking',
      thinking: [{ type: 'text', text: 'hm' }, null, { type: 'reference' }, { type: 'text', text: ' so' }],
    },
    null,
    { type: 'text', text: 'one ' },
    { type: 'image_url' },
    { type: 'text', text: 'two' },
  ];
  const mistral = await play('openai-compatible', events(openai.chunk({ content: blocks }), openai.chunk({}, 'stop')));
  t.match(mistral, { reasoning: 'hm so', text: 'one two', error: undefined }, 'Mistral');
  const openrouter = await play(
    'openai-compatible',
    events(
      openai.chunk({ reasoning: 'hm' }),
      openai.chunk({ reasoning: ' so', content: 'x' }),
      openai.chunk({}, 'stop'),
    ),
  );
  t.match(openrouter, { reasoning: 'hm so', text: 'x' }, 'OpenRouter');
});

t.test('text that equals the reasoning beside it is kept', async (t) => {
  const play = await startDialects(t);
  const body = events(openai.chunk({ reasoning_content: 'same', content: 'same' }), openai.chunk({}, 'stop'));
  t.match(await play('openai-compatible', body), { reasoning: 'same', text: 'same' });
});

t.test('only the first choice is read', async (t) => {
  const play = await startDialects(t);
  const choice = (index: number | undefined, content: string, finish: string | null = null) => ({
    ...(index !== undefined && { index }),
    delta: { content },
    finish_reason: finish,
  });
  const chat = events(
    { choices: [choice(1, 'lost', 'length'), choice(0, 'one ')] },
    { choices: [choice(undefined, 'two')] },
    { choices: [choice(0, '', 'stop'), choice(2, 'lost', 'length')] },
  );
  t.match(await play('openai-compatible', chat), { text: 'one two', finish: { reason: 'stop' } });
  const candidate = (index: number | null | undefined, text: string, finishReason?: string) => ({
    ...(index !== undefined && { index }),
    content: { parts: [{ text }] },
    finishReason,
  });
  const generated = events(
    { candidates: [candidate(1, 'lost', 'MAX_TOKENS'), candidate(undefined, 'one ')] },
    { candidates: [candidate(null, 'two', 'STOP'), candidate(1, 'lost', 'MAX_TOKENS')] },
  );
  t.match(await play('gemini', generated), { text: 'one two', finish: { reason: 'stop' } });
});

t.test('null is accepted for any field', async (t) => {
  const play = await startDialects(t);
  const bodies: [Dialect, string][] = [
    [
      'openai-compatible',
      events(
        {},
        { choices: null, usage: null, x_groq: null, error: null },
        { choices: [null] },
        { choices: [{ delta: null, finish_reason: null, usage: null }] },
        openai.chunk({ content: null, reasoning_content: null, reasoning: null, refusal: null, tool_calls: null }),
        openai.chunk({ tool_calls: [null] }),
        openai.chunk({ content: 'ok' }, 'stop'),
      ),
    ],
    [
      'anthropic',
      events(
        { type: 'message_start', message: null },
        { type: 'content_block_start', index: 0, content_block: null },
        anthropic.block(0, { type: 'text', text: null }),
        { type: 'content_block_delta', index: 0, delta: null },
        anthropic.delta(0, { type: 'text_delta', text: null }),
        anthropic.delta(0, { type: 'thinking_delta', thinking: null }),
        anthropic.delta(0, { type: 'input_json_delta', partial_json: null }),
        { type: 'message_delta', delta: null, usage: null },
        anthropic.delta(0, { type: 'text_delta', text: 'ok' }),
        ...anthropic.end('end_turn'),
      ),
    ],
    [
      'gemini',
      events(
        {},
        { candidates: null, promptFeedback: null, usageMetadata: null, error: null },
        { candidates: [null, { index: null, content: null, finishReason: null }] },
        { candidates: [{ content: { parts: null } }] },
        gemini.chunk([null, { text: null, thought: null, functionCall: null }, { text: 'ok' }], 'STOP'),
      ),
    ],
    [
      'ollama',
      lines(
        {},
        { message: null, error: null },
        ollama.line({ content: null, thinking: null, tool_calls: null }),
        ollama.line({ tool_calls: [null], content: 'ok' }),
        ollama.end('stop'),
      ),
    ],
  ];
  for (const [dialect, body] of bodies) {
    const { text, finish, error, toolCalls } = await play(dialect, body);
    t.equal(error, undefined, `${dialect}: no error`);
    t.equal(text, 'ok', dialect);
    t.equal(finish?.reason, 'stop', `${dialect}: finish reason`);
    t.same(toolCalls, [], `${dialect}: no tool call`);
  }
});

t.test('the first text of a block may be in its start event', async (t) => {
  const play = await startDialects(t);
  const body = events(
    anthropic.start(),
    anthropic.block(0, { type: 'thinking', thinking: 'hm' }),
    anthropic.block(1, { type: 'text', text: 'one ' }),
    anthropic.delta(1, { type: 'text_delta', text: 'two' }),
    ...anthropic.end('end_turn'),
  );
  t.match(await play('anthropic', body), { reasoning: 'hm', text: 'one two' });
});

t.test('nothing behind the end of an answer is read', async (t) => {
  const play = await startDialects(t);
  const bodies: [Dialect, string][] = [
    ['openai-compatible', openai.answer('stop') + events(openai.chunk({ content: 'lost' }, 'length'))],
    ['anthropic', anthropic.answer('end_turn') + events(...anthropic.text('lost'), ...anthropic.end('max_tokens'))],
    ['ollama', ollama.answer('stop') + lines(ollama.line({ content: 'lost' }), ollama.end('length'))],
  ];
  for (const [dialect, body] of bodies) {
    t.match(await play(dialect, body), { text: 'x', finish: { reason: 'stop' }, error: undefined }, dialect);
  }
});
