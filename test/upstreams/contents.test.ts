import t from 'tap';
import { checkAll, type UpstreamCase } from './play.ts';
import { anthropic, event, gemini, openai } from './wire.ts';

/** Values, framing and counts that differ from what an API describes. Reports of the inputs are named. */

const { text, finish, usage, done, chunk } = openai;
const oneBreak = (body: string) => body.replaceAll('\n\n', '\n');
const EMPTY_ERRORS: [string, unknown][] = [
  ['an empty text', ''],
  ['an empty object', {}],
  ['false', false],
  ['null', null],
  ['0', 0],
];
const xai = (completion: number, reasoning: number, total: number) =>
  event({
    choices: [],
    usage: {
      prompt_tokens: 10,
      completion_tokens: completion,
      total_tokens: total,
      completion_tokens_details: { reasoning_tokens: reasoning },
    },
  });

const CASES: UpstreamCase[] = [
  {
    name: 'numbers and booleans in the text (cloudflare/ai#651)',
    body: [
      text('Plan '),
      chunk({ content: 12 }),
      text(' costs '),
      chunk({ content: 0.5 }),
      text(': '),
      chunk({ content: true }),
      finish(),
      done,
    ],
    expected: { text: 'Plan 12 costs 0.5: true', finish: 'stop', anomalies: ['content_type'] },
  },
  {
    name: 'the number 0 in the text',
    body: [text('1'), chunk({ content: 0 }), finish(), done],
    expected: { text: '10', finish: 'stop' },
  },
  {
    name: 'numbers in the reasoning',
    body: [chunk({ reasoning_content: 'step ' }), chunk({ reasoning_content: 2 }), text('ok'), finish(), done],
    expected: { reasoning: 'step 2', text: 'ok', finish: 'stop', anomalies: ['content_type'] },
  },
  {
    name: 'reasoning as an object with text, and a signature (ai-gateway#1222)',
    body: [
      chunk({ reasoning_content: { text: '27 times ' } }),
      chunk({ reasoning_content: { text: '4.' } }),
      chunk({ reasoning_content: { signature: 'c2ln' } }),
      text('108'),
      finish(),
      done,
    ],
    expected: { reasoning: '27 times 4.', text: '108', finish: 'stop' },
  },
  {
    name: 'reasoning as a list of texts',
    body: [chunk({ reasoning: [{ type: 'text', text: 'a' }, { text: 'b' }] }), text('ok'), finish(), done],
    expected: { reasoning: 'ab', text: 'ok', finish: 'stop' },
  },
  {
    name: 'an empty reasoning_content beside reasoning',
    body: [chunk({ reasoning_content: '', reasoning: 'hm' }), text('ok'), finish(), done],
    expected: { reasoning: 'hm', text: 'ok', finish: 'stop' },
  },
  {
    name: 'content blocks of text and thinking (Mistral)',
    body: [
      chunk({
        content: [
          { type: 'thinking', thinking: [{ type: 'text', text: 'hm' }] },
          { type: 'text', text: 'ok' },
        ],
      }),
      finish(),
      done,
    ],
    expected: { reasoning: 'hm', text: 'ok', finish: 'stop' },
  },
  {
    name: 'content that nobody can read is counted',
    body: [text('ok'), chunk({ content: { image: 'AAAA' } }), finish(), done],
    expected: { text: 'ok', finish: 'stop', anomalies: ['content'] },
  },
  {
    name: 'reasoning in tags before the text (cherry-studio#10225)',
    provider: 'bedrock',
    body: [
      text('<reason'),
      text('ing>One.</reasoning>'),
      text('<reasoning>Two.</reas'),
      text('oning>Hello '),
      text('<reasoning> stays.'),
      finish(),
      done,
    ],
    expected: { reasoning: 'One.Two.', text: 'Hello <reasoning> stays.', finish: 'stop' },
  },
  {
    name: 'text that begins like a tag',
    provider: 'bedrock',
    body: [text('<rea'), text('lly>'), finish(), done],
    expected: { text: '<really>', finish: 'stop' },
  },
  {
    name: 'text that ends as a tag begins',
    provider: 'bedrock',
    body: [text('<reas'), finish(), done],
    expected: { text: '<reas', finish: 'stop' },
  },
  {
    name: 'Bella repeats the reasoning in a fence',
    provider: 'bella',
    body: [
      chunk({ content: '```sh\n' }, ''),
      chunk({ content: 'I thi', reasoning_content: 'I thi' }, ''),
      chunk({ content: 'nk.', reasoning_content: 'nk.' }, ''),
      chunk({ content: '\n```\n' }, ''),
      text('Hello'),
      finish(),
      done,
    ],
    expected: { reasoning: 'I think.', text: 'Hello', finish: 'stop' },
  },
  {
    name: 'Bella repeats the reasoning, cut elsewhere',
    provider: 'bella',
    body: [
      chunk({ content: '```', reasoning_content: 'I think.' }),
      text('sh\nI'),
      text(' think.\n``'),
      text('`\nHello'),
      finish(),
      done,
    ],
    expected: { reasoning: 'I think.', text: 'Hello', finish: 'stop' },
  },
  {
    name: 'Bella answers with a fence of its own',
    provider: 'bella',
    body: [chunk({ reasoning_content: 'I think.' }), text('```sh\n'), text('ls -l'), text('\n```\n'), finish(), done],
    expected: { reasoning: 'I think.', text: '```sh\nls -l\n```\n', finish: 'stop' },
  },
  {
    name: 'Bella repeats a part of the reasoning only: nothing is left out',
    provider: 'bella',
    body: [chunk({ reasoning_content: 'I think.' }), text('```sh\nI thi\n```\nHello'), finish(), done],
    expected: { reasoning: 'I think.', text: '```sh\nI thi\n```\nHello', finish: 'stop' },
  },
  {
    name: 'Bella repeats the reasoning and goes on in the block: nothing is left out',
    provider: 'bella',
    body: [
      chunk({ reasoning_content: 'I think.' }),
      text('```sh\nI think. So'),
      text(' on.\n```\nHello'),
      finish(),
      done,
    ],
    expected: { reasoning: 'I think.', text: '```sh\nI think. So on.\n```\nHello', finish: 'stop' },
  },
  {
    name: 'Bella repeats reasoning with line breaks before it sends it',
    provider: 'bella',
    body: [
      chunk({ content: '```sh\n' }),
      chunk({ content: 'I', reasoning_content: 'I' }),
      text('\n'),
      chunk({ content: 'think.', reasoning_content: '\nthink.' }),
      text('\n```\nHello'),
      finish(),
      done,
    ],
    expected: { reasoning: 'I\nthink.', text: 'Hello', finish: 'stop' },
  },
  {
    name: 'Bella: text that equals the reasoning of its chunk is text',
    provider: 'bella',
    body: [chunk({ content: 'a', reasoning_content: 'a' }), text('b'), finish(), done],
    expected: { reasoning: 'a', text: 'ab', finish: 'stop' },
  },
  {
    name: 'events with one line break (eventsource-parser#31)',
    body: [text('one '), oneBreak(text('two ') + text('three')), '\n', finish(), done],
    expected: { text: 'one two three', finish: 'stop' },
  },
  {
    name: 'a whole stream with single line breaks',
    body: [oneBreak(text('one ')), oneBreak(text('two')), oneBreak(finish()), oneBreak(usage()), oneBreak(done)],
    expected: { text: 'one two', finish: 'stop', usage: [11, 7] },
  },
  ...['application/json', 'text/plain', 'application/octet-stream'].map((contentType) => ({
    name: `an event stream as ${contentType} (vllm-ascend#6985)`,
    contentType,
    body: [text('Hello'), finish(), done],
    expected: { text: 'Hello', finish: 'stop' },
  })),
  {
    name: 'events with nothing in them (hermes-agent#111887)',
    body: [
      'data:\n\n',
      'event: ping\n\n',
      text('All '),
      'id: 7\n\n',
      ': ping\n\n',
      'event: ping\ndata:\n\n',
      text('of it.'),
      'data: \n\n',
      finish(),
      done,
    ],
    expected: { text: 'All of it.', finish: 'stop' },
  },
  ...EMPTY_ERRORS.map(([name, error]) => ({
    name: `an error field that is ${name} (litellm#32237)`,
    body: [chunk({ content: 'fine' }, null, { error }), finish(), done],
    expected: { text: 'fine', finish: 'stop' },
  })),
  {
    name: 'an event of two megabytes without text (axonhub#554)',
    provider: 'gemini',
    body: [
      gemini.chunk([{ text: 'Here ' }]),
      gemini.chunk([{ inlineData: { mimeType: 'image/png', data: 'A'.repeat(2_000_000) } }]),
      gemini.chunk([{ text: 'it is.' }], 'STOP'),
    ],
    expected: { text: 'Here it is.', finish: 'stop' },
  },
  {
    name: 'a smaller count at the end (Anthropic behind a proxy)',
    provider: 'anthropic',
    body: [
      anthropic.start({ input_tokens: 15, output_tokens: 3 }),
      anthropic.text('ok'),
      anthropic.finish('end_turn', { input_tokens: 0, output_tokens: 2 }),
      anthropic.done,
    ],
    expected: { text: 'ok', finish: 'stop', usage: [15, 3] },
  },
  {
    name: 'a smaller count at the end (Chat Completions)',
    body: [usage(20, 9), text('ok'), finish(), usage(20, 0), done],
    expected: { text: 'ok', finish: 'stop', usage: [20, 9] },
  },
  {
    name: 'a null count keeps the known one',
    provider: 'anthropic',
    body: [
      anthropic.start({ input_tokens: 15, output_tokens: 1 }),
      anthropic.text('ok'),
      anthropic.finish('end_turn', { input_tokens: null, output_tokens: 6 }),
      anthropic.done,
    ],
    expected: { text: 'ok', finish: 'stop', usage: [15, 6] },
  },
  {
    name: 'thoughts of Gemini are output',
    provider: 'gemini',
    body: [
      gemini.chunk([{ text: 'ok' }], 'STOP', {
        usageMetadata: { promptTokenCount: 5, candidatesTokenCount: 3, thoughtsTokenCount: 40, totalTokenCount: 48 },
      }),
    ],
    expected: { text: 'ok', finish: 'stop', usage: [5, 43] },
  },
  {
    name: 'reasoning of xAI is output',
    body: [text('ok'), finish(), xai(2, 30, 42), done],
    expected: { text: 'ok', finish: 'stop', usage: [10, 32] },
  },
  {
    name: 'reasoning that is part of the output is not added',
    body: [text('ok'), finish(), xai(32, 30, 42), done],
    expected: { text: 'ok', finish: 'stop', usage: [10, 32] },
  },
];

t.test('contents', async (t) => checkAll(t, CASES));
