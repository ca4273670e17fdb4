import t from 'tap';
import { anthropic, type Dialect, DONE, events, gemini, lines, ollama, openai, startDialects } from './dialects.ts';

/** Tests which token counts each API reports, also with counts that are null, missing, zero or sent several times. */

/** Name, response, and the expected usage. */
type Case = [name: string, body: string, usage: object | undefined];

const chat = (...usages: unknown[]) =>
  events(openai.chunk({ content: 'x' }), openai.chunk({}, 'stop'), ...usages.map(openai.usage)) + DONE;

const CHAT: Case[] = [
  [
    'all counts',
    chat({
      prompt_tokens: 10,
      completion_tokens: 5,
      total_tokens: 15,
      completion_tokens_details: { reasoning_tokens: 2 },
      prompt_tokens_details: { cached_tokens: 4 },
    }),
    { inputTokens: 10, outputTokens: 5, totalTokens: 15, reasoningTokens: 2, cachedTokens: 4 },
  ],
  ['no usage', openai.answer('stop'), undefined],
  ['usage: null', chat(null), undefined],
  ['an empty usage', chat({}), undefined],
  ['a usage without numbers', chat({ prompt_tokens: null, completion_tokens: '5' }), undefined],
  [
    'null and missing counts are absent',
    chat({ prompt_tokens: 10, completion_tokens: null, completion_tokens_details: null, prompt_tokens_details: null }),
    { inputTokens: 10 },
  ],
  ['zero is a count', chat({ prompt_tokens: 10, completion_tokens: 0 }), { inputTokens: 10, outputTokens: 0 }],
  [
    'null behind a usage keeps it',
    chat({ prompt_tokens: 10, completion_tokens: 5 }, null, {}, { prompt_tokens: null }),
    { inputTokens: 10, outputTokens: 5 },
  ],
  [
    'a smaller usage behind a usage keeps it',
    chat(
      { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 },
      { prompt_tokens: 0, completion_tokens: 1, total_tokens: 1 },
    ),
    { inputTokens: 10, outputTokens: 5, totalTokens: 15 },
  ],
  [
    'a later usage replaces an earlier one',
    chat({ prompt_tokens: 10, completion_tokens: 1 }, { prompt_tokens: 10, completion_tokens: 5 }),
    { inputTokens: 10, outputTokens: 5 },
  ],
  [
    'in the chunk of the finish reason',
    events(
      openai.chunk({ content: 'x' }, null, { usage: null }),
      openai.chunk({}, 'stop', { usage: { prompt_tokens: 3 } }),
    ),
    { inputTokens: 3 },
  ],
  [
    'in every chunk',
    events(
      openai.chunk({ content: 'x' }, null, { usage: { prompt_tokens: 3, completion_tokens: 1 } }),
      openai.chunk({}, 'stop', { usage: { prompt_tokens: 3, completion_tokens: 2 } }),
    ),
    { inputTokens: 3, outputTokens: 2 },
  ],
  [
    'in the choice (Moonshot)',
    events({ choices: [{ index: 0, delta: { content: 'x' }, finish_reason: 'stop', usage: { prompt_tokens: 3 } }] }),
    { inputTokens: 3 },
  ],
  [
    'null in the choice keeps the usage of the chunk',
    events({
      usage: { prompt_tokens: 3 },
      choices: [{ index: 0, delta: { content: 'x' }, finish_reason: 'stop', usage: null }],
    }),
    { inputTokens: 3 },
  ],
  [
    'in x_groq',
    events(openai.chunk({ content: 'x' }, 'stop', { x_groq: { usage: { prompt_tokens: 3 } } })),
    { inputTokens: 3 },
  ],
  ['x_groq: null', events(openai.chunk({ content: 'x' }, 'stop', { x_groq: null })), undefined],
  ['reasoning tokens beside the others', chat({ reasoning_tokens: 2 }), { reasoningTokens: 2 }],
  ['cached tokens of DeepSeek', chat({ prompt_cache_hit_tokens: 3 }), { cachedTokens: 3 }],
  [
    'cached tokens of Bella',
    chat({ cache_read_tokens: 3, cache_creation_tokens: 4 }),
    { cachedTokens: 3, cacheWriteTokens: 4 },
  ],
  [
    'zero cached tokens of Bella are not counted: its channel may not know them',
    chat({ prompt_tokens: 1, cache_read_tokens: 0, cache_creation_tokens: 0 }),
    { inputTokens: 1 },
  ],
  ['cached tokens of Moonshot and Together', chat({ cached_tokens: 3 }), { cachedTokens: 3 }],
  [
    'tokens that OpenRouter wrote to a cache',
    chat({ prompt_tokens_details: { cached_tokens: 3, cache_write_tokens: 4 } }),
    { cachedTokens: 3, cacheWriteTokens: 4 },
  ],
  [
    'zero tokens written to a cache: most models write to none',
    chat({ prompt_tokens: 1, prompt_tokens_details: { cache_write_tokens: 0 } }),
    { inputTokens: 1 },
  ],
  ['zero cached tokens of OpenAI', chat({ prompt_tokens_details: { cached_tokens: 0 } }), { cachedTokens: 0 }],
  ['zero cached tokens of DeepSeek', chat({ prompt_cache_hit_tokens: 0 }), { cachedTokens: 0 }],
];

/** A Messages stream with a usage in `message_start` and in each `message_delta`. */
const messages = (first: unknown, ...later: unknown[]) =>
  events(
    anthropic.start(first),
    ...anthropic.text('x'),
    ...later.map((usage) => ({ type: 'message_delta', delta: { stop_reason: null }, usage })),
    ...anthropic.end('end_turn'),
  );

const ANTHROPIC: Case[] = [
  [
    'input from the start, output from the end',
    messages({ input_tokens: 10, output_tokens: 1 }, { output_tokens: 5 }),
    { inputTokens: 10, outputTokens: 5 },
  ],
  ['no usage', messages(undefined), undefined],
  ['usage: null', messages(null, null), undefined],
  ['an empty usage', messages({}, {}), undefined],
  [
    'null keeps an earlier count',
    messages(
      { input_tokens: 10, output_tokens: 1, cache_read_input_tokens: 2, cache_creation_input_tokens: 3 },
      { input_tokens: null, output_tokens: 5, cache_read_input_tokens: null, cache_creation_input_tokens: null },
    ),
    { inputTokens: 15, outputTokens: 5, cachedTokens: 2, cacheWriteTokens: 3 },
  ],
  [
    'null before a count',
    messages({ input_tokens: null, output_tokens: null }, { input_tokens: 10, output_tokens: 5 }),
    { inputTokens: 10, outputTokens: 5 },
  ],
  [
    'a usage of null keeps all counts',
    messages({ input_tokens: 10, output_tokens: 1 }, { output_tokens: 5 }, null),
    { inputTokens: 10, outputTokens: 5 },
  ],
  [
    'later counts are cumulative',
    messages({ output_tokens: 1 }, { output_tokens: 5 }, { output_tokens: 9 }),
    { outputTokens: 9 },
  ],
  [
    'a later smaller count keeps the larger one',
    messages({ input_tokens: 10, output_tokens: 1 }, { output_tokens: 5 }, { input_tokens: 0, output_tokens: 2 }),
    { inputTokens: 10, outputTokens: 5 },
  ],
  ['zero is a count', messages({ input_tokens: 10, output_tokens: 0 }), { inputTokens: 10, outputTokens: 0 }],
  [
    'zero grows',
    messages({ input_tokens: 0, output_tokens: 0 }, { input_tokens: 10, output_tokens: 5 }),
    { inputTokens: 10, outputTokens: 5 },
  ],
  [
    'cached tokens are part of the input tokens',
    messages({ input_tokens: 10, cache_read_input_tokens: 100, cache_creation_input_tokens: 0 }, { output_tokens: 5 }),
    { inputTokens: 110, outputTokens: 5, cachedTokens: 100, cacheWriteTokens: 0 },
  ],
  [
    'tokens that are cached for an hour are part of those written to the cache',
    messages(
      {
        input_tokens: 10,
        cache_creation_input_tokens: 7,
        cache_creation: { ephemeral_5m_input_tokens: 4, ephemeral_1h_input_tokens: 3 },
      },
      { output_tokens: 5 },
    ),
    { inputTokens: 17, outputTokens: 5, cacheWriteTokens: 7, longCacheWriteTokens: 3 },
  ],
  [
    'no tokens that are cached for an hour, and lifetimes that are no object',
    messages(
      { input_tokens: 10, cache_creation: { ephemeral_1h_input_tokens: 0 } },
      { output_tokens: 5, cache_creation: 'x' },
    ),
    { inputTokens: 10, outputTokens: 5 },
  ],
  ['only cached tokens', messages({ cache_read_input_tokens: 7 }), { inputTokens: 7, cachedTokens: 7 }],
  [
    'tokens of reasoning',
    messages({ input_tokens: 10 }, { output_tokens: 5, output_tokens_details: { thinking_tokens: 3 } }),
    { inputTokens: 10, outputTokens: 5, reasoningTokens: 3 },
  ],
  ['counts that are no numbers', messages({ input_tokens: '10', output_tokens: 5 }), { outputTokens: 5 }],
];

const generate = (...usages: unknown[]) =>
  events(
    ...usages.map((usageMetadata) => gemini.chunk([{ text: 'x' }], undefined, { usageMetadata })),
    gemini.chunk([{ text: '' }], 'STOP'),
  );

const GEMINI: Case[] = [
  [
    'all counts',
    generate({
      promptTokenCount: 10,
      candidatesTokenCount: 5,
      totalTokenCount: 17,
      thoughtsTokenCount: 2,
      cachedContentTokenCount: 4,
    }),
    { inputTokens: 10, outputTokens: 7, totalTokens: 17, reasoningTokens: 2, cachedTokens: 4 },
  ],
  ['no usage', gemini.answer('STOP'), undefined],
  ['null', generate(null, {}), undefined],
  [
    'null and missing counts are absent',
    generate({ promptTokenCount: 10, candidatesTokenCount: null }),
    { inputTokens: 10 },
  ],
  [
    'zero is a count',
    generate({ promptTokenCount: 10, candidatesTokenCount: 0 }),
    { inputTokens: 10, outputTokens: 0 },
  ],
  [
    'later counts are cumulative',
    generate({ promptTokenCount: 10, candidatesTokenCount: 1 }, { promptTokenCount: 10, candidatesTokenCount: 5 }),
    { inputTokens: 10, outputTokens: 5 },
  ],
  [
    'null behind a usage keeps it',
    generate({ promptTokenCount: 10, candidatesTokenCount: 5 }, null, {}, { promptTokenCount: null }),
    { inputTokens: 10, outputTokens: 5 },
  ],
  [
    'in the chunk of the finish reason',
    events(gemini.chunk([{ text: 'x' }], 'STOP', { usageMetadata: { promptTokenCount: 3 } })),
    { inputTokens: 3 },
  ],
  [
    'a last report that corrects the estimate of the input',
    generate(
      { promptTokenCount: 15, totalTokenCount: 15 },
      { promptTokenCount: 13, candidatesTokenCount: 8, totalTokenCount: 21 },
    ),
    { inputTokens: 13, outputTokens: 8, totalTokens: 21 },
  ],
  [
    'behind the finish reason',
    events(gemini.chunk([{ text: 'x' }], 'STOP'), { usageMetadata: { promptTokenCount: 3 } }),
    { inputTokens: 3 },
  ],
];

const chatLines = (end: object) => lines(ollama.line({ content: 'x' }), ollama.end('stop', end));

const OLLAMA: Case[] = [
  ['all counts', chatLines({ prompt_eval_count: 10, eval_count: 5 }), { inputTokens: 10, outputTokens: 5 }],
  ['no usage', chatLines({}), undefined],
  ['null', chatLines({ prompt_eval_count: null, eval_count: null }), undefined],
  ['a cached prompt has no count', chatLines({ eval_count: 5 }), { outputTokens: 5 }],
  ['zero is a count', chatLines({ prompt_eval_count: 0, eval_count: 0 }), { inputTokens: 0, outputTokens: 0 }],
];

const CASES: [Dialect, Case[]][] = [
  ['openai-compatible', CHAT],
  ['bella', CHAT],
  ['anthropic', ANTHROPIC],
  ['gemini', GEMINI],
  ['ollama', OLLAMA],
];

for (const [dialect, cases] of CASES) {
  t.test(`${dialect}: token counts`, async (t) => {
    const play = await startDialects(t);
    for (const [name, body, usage] of cases) {
      const { finish, error } = await play(dialect, body);
      t.equal(error, undefined, `${name}: no error`);
      t.same(finish?.usage, usage, name);
      if (usage === undefined) t.notOk(finish && 'usage' in finish, `${name}: the finish part has no usage`);
    }
  });
}
