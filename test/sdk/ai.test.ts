import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { DefaultChatTransport, jsonSchema, readUIMessageStream, streamText, tool, type UIMessage } from 'ai';
import t from 'tap';
import { until } from '../helper.ts';
import { noRecordings } from '../providers/fixtures.ts';
import { chunk, DONE, STOP, sse, text, unfinishedAnswer } from '../upstream.ts';
import { playRecording, type Service, serveProvider } from './service.ts';

/** Tests the Vercel AI SDK as a client of the OpenAI endpoint, and the requests of its `useChat`. */

const model = ({ url }: Service) =>
  createOpenAICompatible({ name: 'sluice', baseURL: `${url}/v1`, includeUsage: true }).chatModel('p/m');

t.test('streamText gets reasoning, text, finish reason and usage', { skip: noRecordings }, async (t) => {
  const service = await serveProvider(t, 'deepseek', playRecording('deepseek/reasoning.sse'));
  const result = streamText({ model: model(service), prompt: 'q' });
  const types = new Set<string>();
  for await (const part of result.fullStream) types.add(part.type);
  t.ok(types.has('reasoning-delta') && types.has('text-delta'), [...types].join(' '));
  t.ok((await result.text).length > 0);
  t.ok(((await result.reasoningText) ?? '').length > 0);
  t.equal(await result.finishReason, 'stop');
  t.ok(((await result.usage).outputTokens ?? 0) > 0, 'output tokens');
});

t.test('streamText runs a tool that the model calls', { skip: noRecordings }, async (t) => {
  for (const [file, type] of [
    ['anthropic/vertex-tool.sse', 'anthropic'],
    ['gemini/tool-call.sse', 'gemini'],
  ] as const) {
    const service = await serveProvider(t, type, playRecording(file));
    const inputs: unknown[] = [];
    const weather = tool({
      description: 'Weather',
      inputSchema: jsonSchema<object>({ type: 'object' }),
      execute: async (input) => {
        inputs.push(input);
        return 'sunny';
      },
    });
    const result = streamText({ model: model(service), prompt: 'q', tools: { weather } });
    await result.consumeStream();
    t.equal(await result.finishReason, 'tool-calls', file);
    t.equal((await result.toolCalls)[0]?.toolName, 'weather', file);
    t.match(inputs, [/./], `${file}: the tool ran`);
    t.match((await result.toolResults)[0], { output: 'sunny' }, file);
  }
});

t.test('streamText reports a failure after partial text', async (t) => {
  const service = await serveProvider(t, 'openai', ({ response }) => {
    sse(response).write(text('partial'), () => response.destroy());
  });
  const errors: unknown[] = [];
  const result = streamText({
    model: model(service),
    prompt: 'q',
    maxRetries: 0,
    onError: ({ error }) => void errors.push(error),
  });
  let received = '';
  const read = async () => {
    for await (const part of result.fullStream) if (part.type === 'text-delta') received += part.text;
    throw errors[0];
  };
  await t.rejects(read(), 'the answer does not look complete');
  t.equal(received, 'partial');
});

const transport = ({ url }: Service, body: object = {}) => new DefaultChatTransport({ api: `${url}/ui/chat`, body });
const user = (content: string): UIMessage => ({ id: 'u1', role: 'user', parts: [{ type: 'text', text: content }] });
const send = (service: Service, messages: UIMessage[], body: object = {}, abortSignal?: AbortSignal) =>
  transport(service, body).sendMessages({
    chatId: 'chat-1',
    messages,
    trigger: 'submit-message',
    messageId: undefined,
    abortSignal,
  });

/** Reads a stream to its end. Returns the complete message. */
async function completeMessage(stream: Parameters<typeof readUIMessageStream>[0]['stream']): Promise<UIMessage> {
  let last: UIMessage | undefined;
  for await (const message of readUIMessageStream({ stream, terminateOnError: true })) last = message;
  if (last === undefined) throw new Error('the stream has no message');
  return last;
}

t.test('useChat: reasoning, text and a tool call become one message', async (t) => {
  const service = await serveProvider(t, 'deepseek', ({ response }) => {
    const callArguments = (args: string) => chunk({ tool_calls: [{ index: 0, function: { arguments: args } }] });
    const callHead = chunk({ tool_calls: [{ index: 0, id: 'c1', function: { name: 'weather', arguments: '' } }] });
    sse(response).end(
      chunk({ reasoning_content: 'hm ' }) +
        text('Let me ') +
        text('look.') +
        callHead +
        callArguments('{"city":') +
        callArguments('"Oslo"}') +
        chunk({}, 'tool_calls') +
        DONE,
    );
  });
  const message = await completeMessage(await send(service, [user('q')]));
  t.match(message.parts, [
    { type: 'step-start' },
    { type: 'reasoning', text: 'hm ', state: 'done' },
    { type: 'text', text: 'Let me look.', state: 'done' },
    { type: 'tool-weather', toolCallId: 'c1', state: 'input-available', input: { city: 'Oslo' } },
  ]);
  t.match(message, {
    role: 'assistant',
    metadata: { stream: message.id, url: `/streams/${message.id}`, model: 'p/m' },
  });
});

t.test('useChat: messages, files, tool results and options reach the provider', async (t) => {
  const service = await serveProvider(t, 'openai', ({ response }) => void sse(response).end(text('ok') + STOP + DONE));
  const messages: UIMessage[] = [
    { id: 's', role: 'system', parts: [{ type: 'text', text: 'Be brief.' }] },
    {
      id: 'u',
      role: 'user',
      parts: [
        { type: 'text', text: 'Look:' },
        { type: 'file', mediaType: 'image/png', url: 'data:image/png;base64,AAAA' },
      ],
    },
    {
      id: 'a',
      role: 'assistant',
      parts: [
        { type: 'step-start' },
        { type: 'reasoning', text: 'not sent back' },
        { type: 'text', text: 'Looking.' },
        { type: 'tool-look', toolCallId: 'c1', state: 'output-available', input: { at: 1 }, output: { seen: true } },
        { type: 'tool-look', toolCallId: 'c2', state: 'input-available', input: {} },
        { type: 'step-start' },
        { type: 'dynamic-tool', toolName: 'ask', toolCallId: 'c3', state: 'output-error', input: {}, errorText: 'no' },
        { type: 'text', text: 'A cat.' },
      ],
    },
    user('Sure?'),
  ];
  const tools = [{ name: 'look', description: 'Looks', parameters: { type: 'object' } }];
  await completeMessage(await send(service, messages, { model: 'p/m', system: 'You see.', temperature: 0.1, tools }));
  t.match(JSON.parse(service.upstream.calls[0]?.body ?? ''), {
    messages: [
      { role: 'system', content: 'You see.' },
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: [{ text: 'Look:' }, { image_url: { url: 'data:image/png;base64,AAAA' } }] },
      { role: 'assistant', content: 'Looking.', tool_calls: [{ id: 'c1', function: { arguments: '{"at":1}' } }] },
      { role: 'tool', tool_call_id: 'c1', content: '{"seen":true}' },
      { role: 'assistant', content: 'A cat.', tool_calls: [{ id: 'c3' }] },
      { role: 'tool', tool_call_id: 'c3', content: 'no' },
      { role: 'user', content: 'Sure?' },
    ],
    temperature: 0.1,
    tools: [{ function: { name: 'look' } }],
  });
});

t.test('useChat: a resume gets the running answer from its start, and nothing after the end', async (t) => {
  const service = await serveProvider(t, 'openai', unfinishedAnswer('one ', 'two '));
  const reconnect = () => transport(service).reconnectToStream({ chatId: 'chat-1' });
  t.equal(await reconnect(), null, 'no answer is running yet');

  const reading = new AbortController();
  const stream = await send(service, [user('q')], { resumable: true }, reading.signal);
  const first = await stream.getReader().read();
  t.match(first.value, { type: 'start' });
  reading.abort();

  const resumed = await reconnect();
  t.ok(resumed, 'the answer is running');
  (await service.upstream.call(1)).response.end(text('three') + STOP + DONE);
  const message = await completeMessage(resumed as NonNullable<typeof resumed>);
  t.match(message.parts.at(-1), { type: 'text', text: 'one two three' });
  t.equal(message.id, (first.value as { messageId?: string }).messageId, 'the same message');
  t.equal(await reconnect(), null, 'the answer has ended');
  t.equal(service.upstream.calls.length, 1, 'one upstream call');
});

t.test('useChat: a question repeated with its idempotency key gets the same answer', async (t) => {
  const service = await serveProvider(t, 'openai', unfinishedAnswer('one '));
  const body = (content: string, fields: object = {}) =>
    JSON.stringify({ id: 'chat-1', messages: [user(content)], ...fields });
  const post = (key: string, json: string, signal?: AbortSignal) =>
    fetch(`${service.url}/ui/chat`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'idempotency-key': key },
      body: json,
      signal: signal ?? null,
    });
  const controller = new AbortController();
  const first = await post('key', body('q'), controller.signal);
  controller.abort(); // Its client is cut off before the first chunk.
  const metrics = async () => (await fetch(`${service.url}/metrics`)).text();
  await until(async () => (await metrics()).includes('sluice_responses_open 0'), 'it has left');
  const call = await service.upstream.call(1);
  t.equal(call.closedAt, undefined, 'the answer waits for a client that has a key');
  const repeated = await post('key', body('q'));
  call.response.end(text('two') + STOP + DONE);
  const events = await repeated.text();
  t.match(events, /"type":"start".*"one ".*"two".*\[DONE\]/s);
  const later = await post('key', body('q'));
  t.equal(later.headers.get('x-workflow-run-id'), first.headers.get('x-workflow-run-id'));
  t.equal(await later.text(), events, 'the same chunks after the end');
  t.match(await (await post('key', body('other'))).json(), { error: { code: 'conflict' } });
  t.equal(service.upstream.calls.length, 1, 'one upstream call');

  const leaving = new AbortController();
  await post('key-2', body('q', { resumable: false }), leaving.signal);
  const second = await service.upstream.call(2);
  leaving.abort();
  await second.closed;
  t.notOk(second.finished, '`resumable: false` ends the answer with its client');
  t.equal((await post('not a key', body('q'))).status, 400);
});

t.test('useChat: a stop cancels the upstream call', async (t) => {
  const plain = await serveProvider(t, 'openai', unfinishedAnswer('one '));
  const controller = new AbortController();
  await send(plain, [user('q')], {}, controller.signal);
  const call = await plain.upstream.call(1);
  controller.abort();
  await call.closed;
  t.notOk(call.finished, 'an abort cancels the upstream call of a chat that cannot resume');

  const service = await serveProvider(t, 'openai', unfinishedAnswer('one '));
  const stream = await send(service, [user('q')], { resumable: true });
  const { value } = await stream.getReader().read();
  const { url } = (value as { messageMetadata: { url: string } }).messageMetadata;
  await fetch(`${service.url}${url}/stop`, { method: 'POST' });
  await until(() => service.upstream.calls[0]?.closedAt !== undefined, 'the upstream call has ended');
  t.pass('a POST to the stop URL cancels the upstream call of a resumable chat');
});

t.test('useChat: a provider failure, an unknown model and an unsupported file are errors', async (t) => {
  const service = await serveProvider(t, 'openai', ({ response }) => void response.writeHead(500).end('SECRET'));
  await t.rejects(completeMessage(await send(service, [user('q')])), { message: 'The provider failed; retry later.' });
  await t.rejects(send(service, [user('q')], { model: 'no/such' }), /Unknown model/);
  const pdf: UIMessage = {
    id: 'u',
    role: 'user',
    parts: [{ type: 'file', mediaType: 'application/pdf', url: 'data:,x' }],
  };
  await t.rejects(send(service, [pdf]), /parts\.0 must be an image/);
});

t.test('useChat: a tool call with incomplete arguments is an error', async (t) => {
  const service = await serveProvider(t, 'openai', ({ response }) => {
    const call = { index: 0, id: 'c1', function: { name: 'f', arguments: '{"a":' } };
    sse(response).end(chunk({ tool_calls: [call] }, 'length') + DONE);
  });
  const message = await completeMessage(await send(service, [user('q')]));
  t.match(message.parts.at(-1), {
    type: 'tool-f',
    state: 'output-error',
    errorText: 'The arguments of this call are not complete.',
  });
});

t.test('useChat: the step after a tool call continues the same message', async (t) => {
  const service = await serveProvider(
    t,
    'openai',
    ({ response }) => void sse(response).end(text('It is cold.') + STOP + DONE),
  );
  const call = {
    type: 'tool-weather',
    toolCallId: 'c1',
    state: 'output-available',
    input: {},
    output: 'cold',
  } as const;
  const previous: UIMessage = {
    id: 'a1',
    role: 'assistant',
    parts: [{ type: 'step-start' }, { type: 'reasoning', text: 'hm' }, call],
  };
  const stream = await send(service, [user('q'), previous]);
  t.match((await stream.getReader().read()).value, { type: 'start', messageId: 'a1' });
  const [, assistant] = JSON.parse((await service.upstream.call(1)).body).messages;
  t.match(
    assistant,
    { tool_calls: [{ id: 'c1' }], reasoning_content: 'hm' },
    'the tool call and its reasoning are sent to the provider',
  );
});

t.test('useChat: a tool call that is stopped before its end is an error', async (t) => {
  const service = await serveProvider(t, 'openai', ({ response }) => {
    sse(response).write(chunk({ tool_calls: [{ index: 0, id: 'c1', function: { name: 'f', arguments: '{"a"' } }] }));
  });
  const stream = await send(service, [user('q')]);
  const types: string[] = [];
  let stopUrl = '';
  for await (const part of stream as unknown as AsyncIterable<{
    type: string;
    messageMetadata?: { stopUrl: string };
  }>) {
    types.push(part.type);
    stopUrl ||= part.messageMetadata?.stopUrl ?? '';
    if (part.type === 'tool-input-start') await fetch(`${service.url}${stopUrl}`, { method: 'POST' });
  }
  t.ok(types.includes('tool-input-error') && !types.includes('tool-input-available'), types.join(' '));
});

t.test('useChat: a call that the person denied reaches the model as denied', async (t) => {
  const service = await serveProvider(t, 'openai', ({ response }) => void sse(response).end(text('ok') + STOP + DONE));
  const denied = (toolCallId: string, state: string, approval: object) =>
    ({ type: 'tool-rm', toolCallId, state, input: {}, approval }) as unknown as UIMessage['parts'][number];
  const previous: UIMessage = {
    id: 'a1',
    role: 'assistant',
    parts: [
      { type: 'step-start' },
      denied('c1', 'approval-responded', { id: 'p1', approved: false, reason: 'Not that one.' }),
      denied('c2', 'approval-responded', { id: 'p2', approved: false }),
      denied('c3', 'output-denied', { id: 'p3', approved: false, reason: 'Never.' }),
      denied('c4', 'output-denied', { id: 'p4', approved: false }),
      // These have no result yet.
      denied('c5', 'approval-responded', { id: 'p5', approved: true }),
      denied('c6', 'approval-requested', { id: 'p6' }),
    ],
  };
  await completeMessage(await send(service, [user('q'), previous]));
  const [, assistant, ...results] = JSON.parse((await service.upstream.call(1)).body).messages;
  t.same(
    assistant.tool_calls.map(({ id }: { id: string }) => id),
    ['c1', 'c2', 'c3', 'c4'],
  );
  t.same(
    results.map((result: { tool_call_id: string; content: string }) => [result.tool_call_id, result.content]),
    [
      ['c1', 'Not that one.'],
      ['c2', 'Tool call execution denied.'],
      ['c3', 'Never.'],
      ['c4', 'Tool call execution denied.'],
    ],
  );
});

const PARTS: UIMessage['parts'] = [
  { type: 'step-start' },
  { type: 'reasoning', text: 'hm', state: 'done' },
  { type: 'text', text: 'Let me look.', state: 'done' },
  { type: 'file', mediaType: 'image/png', url: 'data:image/png;base64,AAAA' },
  { type: 'source-url', sourceId: 's1', url: 'https://example.com', title: 'Example' },
  { type: 'source-document', sourceId: 's2', mediaType: 'application/pdf', title: 'Paper', filename: 'p.pdf' },
  { type: 'data-note', id: 'n1', data: { note: 1 } },
  { type: 'tool-weather', toolCallId: 'c1', state: 'output-available', input: { city: 'Oslo' }, output: { t: -3 } },
  { type: 'step-start' },
  { type: 'tool-weather', toolCallId: 'c2', state: 'output-error', input: {}, errorText: 'no such city' },
  {
    type: 'dynamic-tool',
    toolName: 'ask',
    toolCallId: 'c3',
    state: 'output-available',
    input: { a: 1 },
    output: 'yes',
  },
];
const previousMessage: UIMessage = { id: 'a1', role: 'assistant', parts: PARTS };

t.test('useChat: a resumed step brings the steps before it, in the same message', async (t) => {
  const service = await serveProvider(t, 'openai', unfinishedAnswer('It ', 'is '));
  const reading = new AbortController();
  const messages = [user('q'), previousMessage];
  const sent = await send(service, messages, { resumable: true }, reading.signal);
  t.match((await sent.getReader().read()).value, { type: 'start', messageId: 'a1' });
  reading.abort();
  const resumed = await transport(service).reconnectToStream({ chatId: 'chat-1' });
  (await service.upstream.call(1)).response.end(text('cold.') + STOP + DONE);
  const calls: unknown[] = [];
  const message = await completeMessage(
    (resumed as NonNullable<typeof resumed>).pipeThrough(
      new TransformStream({
        transform(chunk, controller) {
          if (chunk.type === 'tool-input-available') calls.push(chunk);
          controller.enqueue(chunk);
        },
      }),
    ),
  );
  t.equal(message.id, 'a1');
  t.match(message.parts, [...PARTS, { type: 'step-start' }, { type: 'text', text: 'It is cold.', state: 'done' }]);
  t.equal(message.parts.length, PARTS.length + 2, 'each part once');
  t.same(calls, [], 'no tool runs again');
});

t.test('useChat: earlier steps that are too large to keep stay in a message of their own', async (t) => {
  const service = await serveProvider(t, 'openai', unfinishedAnswer('It is cold.'));
  const large = { type: 'text' as const, text: 'x'.repeat(70_000) };
  const messages = [user('q'), { ...previousMessage, parts: [...PARTS, large] }];
  const sent = (await send(service, messages, { resumable: true })).getReader();
  t.match((await sent.read()).value, { type: 'start', messageId: 'a1' });
  const resumed = await transport(service).reconnectToStream({ chatId: 'chat-1' });
  (await service.upstream.call(1)).response.end(STOP + DONE);
  const message = await completeMessage(resumed as NonNullable<typeof resumed>);
  t.not(message.id, 'a1');
  t.match(message.parts, [{ type: 'step-start' }, { type: 'text', text: 'It is cold.' }]);
});
