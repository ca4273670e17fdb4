import t from 'tap';
import { checkAll, type UpstreamCase } from './play.ts';
import { anthropic, event, gemini, ollama, openai } from './wire.ts';

/** Answers that are complete, cut, or failures in the form of an answer. Reports of the inputs are named. */

const { text, finish, usage, done, chunk } = openai;
const WHOLE = {
  id: 'x',
  object: 'chat.completion',
  choices: [{ index: 0, message: { role: 'assistant', content: 'All of it.' }, finish_reason: 'stop' }],
};
const ERROR = { error: { message: 'no channel for this model', type: 'gateway_error', code: 'model_not_found' } };
const chunked = (body: string) => `${Buffer.byteLength(body).toString(16)}\r\n${body}\r\n`;
const HEAD = 'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n';

const COMPLETE: UpstreamCase[] = [
  {
    name: 'a usage chunk before the answer (semantic-router#2215)',
    body: [usage(20, 4), text('All.'), finish(), usage(20, 252), done],
    expected: { text: 'All.', finish: 'stop', usage: [20, 252] },
  },
  {
    name: 'no finish reason, [DONE] after text (vllm-mlx#628)',
    body: [text('All.'), chunk({}), done],
    expected: { text: 'All.', finish: 'stop' },
  },
  {
    name: 'no finish reason and no [DONE], usage after text (Snowflake)',
    body: [text('All.'), usage()],
    expected: { text: 'All.', finish: 'stop' },
  },
  { name: 'an empty answer with a finish reason', body: [finish(), done], expected: { finish: 'stop' } },
  {
    name: 'the context window is full, Anthropic (llmgateway#3254)',
    provider: 'anthropic',
    body: [
      anthropic.start(),
      anthropic.text('Half'),
      anthropic.finish('model_context_window_exceeded'),
      anthropic.done,
    ],
    expected: { text: 'Half', finish: 'length' },
  },
  {
    name: 'the context window is full, Chat Completions (pi#1868)',
    body: [text('Half'), finish('model_context_window_exceeded'), done],
    expected: { text: 'Half', finish: 'length' },
  },
  {
    name: 'an unknown finish reason with text',
    body: [text('Half'), finish('pause_turn'), done],
    expected: { text: 'Half', finish: 'other' },
  },
  {
    name: 'a finish reason in another case',
    body: [text('Half'), finish('MAX_TOKENS'), done],
    expected: { text: 'Half', finish: 'length' },
  },
  {
    name: 'a finish reason that is an object with a type (SGLang)',
    body: [text('All.'), finish({ type: 'stop', matched: 1 }), done],
    expected: { text: 'All.', finish: 'stop' },
  },
  {
    name: 'a finish reason that is the text null (DashScope)',
    body: [chunk({ content: 'All' }, 'null'), chunk({ content: '.' }, 'stop'), done],
    expected: { text: 'All.', finish: 'stop' },
  },
  {
    name: 'a gateway that sends STOP in empty chunks first (kelivo#1003)',
    provider: 'gemini',
    body: [
      gemini.chunk([], 'STOP'),
      gemini.chunk([], 'STOP'),
      gemini.chunk([{ text: 'All.' }]),
      gemini.chunk([], 'STOP'),
    ],
    expected: { text: 'All.', finish: 'stop' },
  },
  {
    name: 'an empty answer of Gemini',
    provider: 'gemini',
    body: [gemini.chunk([], 'STOP')],
    expected: { finish: 'stop' },
  },
  {
    name: '[DONE] in a dialect that has none, Gemini',
    provider: 'gemini',
    body: [gemini.chunk([{ text: 'All.' }], 'STOP'), done],
    expected: { text: 'All.', finish: 'stop' },
  },
  {
    name: '[DONE] in a dialect that has none, Anthropic',
    provider: 'anthropic',
    body: [anthropic.start(), anthropic.text('All.'), done, anthropic.finish(), anthropic.done],
    expected: { text: 'All.', finish: 'stop' },
  },
  {
    name: 'a whole completion in one event (WebAI-to-API#55)',
    body: [event(WHOLE), done],
    expected: { text: 'All of it.', finish: 'stop' },
  },
  {
    name: 'a whole completion as application/json (mistral-vibe#619)',
    contentType: 'application/json',
    body: [JSON.stringify(WHOLE)],
    expected: { text: 'All of it.', finish: 'stop' },
  },
  {
    name: 'a whole completion over several lines',
    contentType: 'application/json',
    body: [JSON.stringify(WHOLE, undefined, 2)],
    expected: { text: 'All of it.', finish: 'stop' },
  },
  {
    name: 'a whole completion without data:, then [DONE] (9router#3492)',
    body: [`${JSON.stringify(WHOLE)}\n\n`, done],
    expected: { text: 'All of it.', finish: 'stop' },
  },
  {
    name: 'a whole message of Anthropic',
    provider: 'anthropic',
    contentType: 'application/json',
    body: [
      JSON.stringify({
        type: 'message',
        content: [
          { type: 'text', text: 'All.' },
          { type: 'tool_use', id: 't', name: 'f', input: { a: 1 } },
        ],
        stop_reason: 'tool_use',
        usage: { input_tokens: 3, output_tokens: 4 },
      }),
    ],
    expected: { text: 'All.', calls: [{ name: 'f', arguments: '{"a":1}' }], finish: 'tool_calls', usage: [3, 4] },
  },
  {
    name: 'a message after deltas repeats them and is ignored',
    body: [
      text('All.'),
      event({ choices: [{ index: 0, delta: {}, message: { content: 'All.' }, finish_reason: 'stop' }] }),
      done,
    ],
    expected: { text: 'All.', finish: 'stop' },
  },
];

const FAILED: UpstreamCase[] = [
  {
    name: '[DONE] alone (hermes-agent#65631)',
    body: [done],
    expected: { error: 'upstream_truncated', retryable: true, asked: 2 },
  },
  { name: 'an empty body', body: [], expected: { error: 'upstream_truncated', retryable: true, asked: 2 } },
  {
    name: 'only a role, then [DONE]',
    body: [chunk({ role: 'assistant', content: '' }), done],
    expected: { error: 'upstream_truncated', asked: 2 },
  },
  { name: 'only usage', body: [usage()], expected: { error: 'upstream_truncated', asked: 2 } },
  {
    name: 'message_stop alone',
    provider: 'anthropic',
    body: [anthropic.start(), anthropic.done],
    expected: { error: 'upstream_truncated', asked: 2 },
  },
  {
    name: 'done without a reason and without text',
    provider: 'ollama',
    body: [ollama.line({ done: true })],
    expected: { error: 'upstream_truncated', asked: 2 },
  },
  {
    name: 'usage first, and a cut in the text',
    body: [usage(), text('Only the')],
    expected: { text: 'Only the', error: 'upstream_truncated' },
  },
  {
    name: 'STOP in empty chunks, and a cut in the text',
    provider: 'gemini',
    body: [gemini.chunk([], 'STOP'), gemini.chunk([{ text: 'Only the' }])],
    expected: { text: 'Only the', error: 'upstream_truncated' },
  },
  {
    name: 'an unknown finish reason without anything',
    body: [finish('whatever'), done],
    expected: { error: 'upstream_error', asked: 2 },
  },
  ...['abort', 'error', 'error_finish', 'network_error', 'insufficient_system_resource', 'Error_Unknown'].map(
    (reason) => ({
      name: `the finish reason ${reason}`,
      body: [text('Half'), finish(reason), done],
      expected: { text: 'Half', error: 'upstream_error', retryable: true },
    }),
  ),
  ...['MALFORMED_FUNCTION_CALL', 'UNEXPECTED_TOOL_CALL', 'MISSING_THOUGHT_SIGNATURE'].map((reason) => ({
    name: `the finish reason ${reason} of Gemini`,
    provider: 'gemini',
    body: [gemini.chunk([{ text: 'Half' }], reason)],
    expected: { text: 'Half', error: 'upstream_error' },
  })),
  {
    name: 'a failure before anything is asked again',
    body: [finish('abort'), done],
    expected: { error: 'upstream_error', asked: 2 },
  },
  {
    name: 'a throttling error in the text (hermes-agent#58017)',
    body: [text('id:1\nevent:error\n:HTTP_STATUS/429\ndata:{"code":"Throttling"}'), finish('error_finish'), done],
    expected: { error: 'upstream_error', retryable: true, asked: 2 },
  },
  {
    name: 'text that looks like an error event is text if the answer goes on',
    body: [text('event: error\nis a line of SSE.'), text(' So.'), finish(), done],
    expected: { text: 'event: error\nis a line of SSE. So.', finish: 'stop' },
  },
  {
    name: 'an error document without data:, then [DONE] (new-api#1178)',
    body: [`${JSON.stringify(ERROR)}\n\n`, done],
    expected: { error: 'upstream_error', retryable: false },
  },
  {
    name: 'an error document as application/json',
    contentType: 'application/json',
    body: [JSON.stringify(ERROR, undefined, 2)],
    expected: { error: 'upstream_error', retryable: false },
  },
  {
    name: 'a document that is no answer',
    contentType: 'application/json',
    body: ['{"hello":"world"}'],
    expected: { error: 'upstream_error', asked: 2 },
  },
  {
    name: 'the fields of an error without choices (hermes-agent#68451)',
    body: [event({ choices: null, error_type: 'BadRequestError', error_message: 'too long' }), done],
    expected: { error: 'upstream_error', retryable: false },
  },
  {
    name: 'a page of a proxy',
    contentType: 'text/html',
    body: ['<html>'],
    expected: { error: 'upstream_protocol', retryable: false },
  },
  {
    name: 'compressed bytes without a header',
    body: [Buffer.from('1f8b0800000000000003cb48cdc9c95728cf2fca49010085114a0d0b000000', 'hex')],
    expected: { error: 'upstream_truncated', asked: 2 },
  },
  {
    name: 'a second message_start (a proxy that has asked again)',
    provider: 'anthropic',
    body: [
      anthropic.start(),
      anthropic.text('One'),
      anthropic.start(),
      anthropic.text('Two'),
      anthropic.finish(),
      anthropic.done,
    ],
    expected: { text: 'One', error: 'upstream_protocol' },
  },
  {
    name: 'Content-Length beside chunked (powerproxy-aoai#53)',
    socket: (socket) =>
      socket.end(
        HEAD.replace('transfer', 'content-length: 500\r\ntransfer') +
          chunked(text('All.') + finish() + done) +
          chunked(''),
      ),
    expected: { error: 'upstream_protocol', retryable: false },
  },
];

t.test('complete answers', async (t) => checkAll(t, COMPLETE));
t.test('failures', async (t) => checkAll(t, FAILED));
