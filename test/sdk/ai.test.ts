import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { DefaultChatTransport, jsonSchema, readUIMessageStream, streamText, tool, type UIMessage } from 'ai';
import t from 'tap';
import { until } from '../helper.ts';
import { noRecordings } from '../providers/fixtures.ts';
import { chunk, DONE, STOP, sse, text, unfinishedAnswer } from '../upstream.ts';
import { playing, type Service, serviceOf } from './service.ts';

/** The Vercel AI SDK, unchanged: as a client of the OpenAI endpoint, and as `useChat` speaks to it. */

const model = ({ url }: Service) =>
  createOpenAICompatible({ name: 'sluice', baseURL: `${url}/v1`, includeUsage: true }).chatModel('it/m');

t.test('streamText with reasoning', { skip: noRecordings }, async (t) => {
  const service = await serviceOf(t, 'deepseek', playing('deepseek/reasoning.sse'));
  const result = streamText({ model: model(service), prompt: 'q' });
  const kinds = new Set<string>();
  for await (const part of result.fullStream) kinds.add(part.type);
  t.ok(kinds.has('reasoning-delta') && kinds.has('text-delta'), [...kinds].join(' '));
  t.ok((await result.text).length > 0);
  t.ok(((await result.reasoningText) ?? '').length > 0);
  t.equal(await result.finishReason, 'stop');
  t.ok(((await result.usage).outputTokens ?? 0) > 0, 'tokens');
});

t.test('streamText with a tool that it runs', { skip: noRecordings }, async (t) => {
  for (const [file, type] of [
    ['anthropic/vertex-tool.sse', 'anthropic'],
    ['gemini/tool-call.sse', 'gemini'],
  ] as const) {
    const service = await serviceOf(t, type, playing(file));
    const seen: unknown[] = [];
    const weather = tool({
      description: 'Weather',
      inputSchema: jsonSchema<object>({ type: 'object' }),
      execute: async (input) => {
        seen.push(input);
        return 'sunny';
      },
    });
    const result = streamText({ model: model(service), prompt: 'q', tools: { weather } });
    await result.consumeStream();
    t.equal(await result.finishReason, 'tool-calls', file);
    t.equal((await result.toolCalls)[0]?.toolName, 'weather', file);
    t.match(seen, [/./], `${file}: it ran`);
    t.match((await result.toolResults)[0], { output: 'sunny' }, file);
  }
});

t.test('streamText is told of a failure in the middle', async (t) => {
  const service = await serviceOf(t, 'openai', ({ response }) => {
    sse(response).write(text('partial'), () => response.destroy());
  });
  const errors: unknown[] = [];
  const result = streamText({
    model: model(service),
    prompt: 'q',
    maxRetries: 0,
    onError: ({ error }) => void errors.push(error),
  });
  let got = '';
  for await (const part of result.fullStream) if (part.type === 'text-delta') got += part.text;
  t.equal(got, 'partial');
  t.match(String((errors[0] as Error)?.message ?? errors[0]), /ended before it was complete/);
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

async function lastOf(stream: Parameters<typeof readUIMessageStream>[0]['stream']): Promise<UIMessage> {
  let last: UIMessage | undefined;
  for await (const message of readUIMessageStream({ stream, terminateOnError: true })) last = message;
  if (last === undefined) throw new Error('no message');
  return last;
}

t.test('useChat: reasoning, text and a tool call become one message', async (t) => {
  const service = await serviceOf(t, 'deepseek', ({ response }) => {
    const call = (args: string, head = {}) =>
      chunk({ tool_calls: [{ index: 0, function: { arguments: args, ...head } }] });
    const head = chunk({ tool_calls: [{ index: 0, id: 'c1', function: { name: 'weather', arguments: '' } }] });
    sse(response).end(
      chunk({ reasoning_content: 'hm ' }) +
        text('Let me ') +
        text('look.') +
        head +
        call('{"city":') +
        call('"Oslo"}') +
        chunk({}, 'tool_calls') +
        DONE,
    );
  });
  const message = await lastOf(await send(service, [user('q')]));
  t.match(message.parts, [
    { type: 'step-start' },
    { type: 'reasoning', text: 'hm ', state: 'done' },
    { type: 'text', text: 'Let me look.', state: 'done' },
    { type: 'tool-weather', toolCallId: 'c1', state: 'input-available', input: { city: 'Oslo' } },
  ]);
  t.match(message, {
    role: 'assistant',
    metadata: { stream: message.id, url: `/streams/${message.id}`, model: 'it/m' },
  });
});

t.test('useChat: what it sends is what the provider gets', async (t) => {
  const service = await serviceOf(t, 'openai', ({ response }) => void sse(response).end(text('ok') + STOP + DONE));
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
  await lastOf(await send(service, messages, { model: 'it/m', system: 'You see.', temperature: 0.1, tools }));
  t.match(JSON.parse(service.upstream.calls[0]?.body ?? ''), {
    messages: [
      { role: 'system', content: 'You see.' },
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: [{ text: 'Look:' }, { image_url: { url: 'data:image/png;base64,AAAA' } }] },
      { role: 'assistant', content: 'Looking.', tool_calls: [{ id: 'c1', function: { arguments: '{"at":1}' } }] },
      { role: 'tool', tool_call_id: 'c1', content: '{"seen":true}' },
      { role: 'assistant', content: 'A cat.', tool_calls: [{ id: 'c3' }] },
      { role: 'tool', tool_call_id: 'c3', content: 'no' },
      { role: 'user', content: [{ type: 'text', text: 'Sure?' }] },
    ],
    temperature: 0.1,
    tools: [{ function: { name: 'look' } }],
  });
});

t.test('useChat: resume finds the running answer from its first part, and nothing afterwards', async (t) => {
  const service = await serviceOf(t, 'openai', unfinishedAnswer('one ', 'two '));
  const reconnect = () => transport(service).reconnectToStream({ chatId: 'chat-1' });
  t.equal(await reconnect(), null, 'nothing yet');

  const reading = new AbortController();
  const stream = await send(service, [user('q')], { resumable: true }, reading.signal);
  const first = await stream.getReader().read();
  t.match(first.value, { type: 'start' });
  reading.abort();

  const resumed = await reconnect();
  t.ok(resumed, 'it goes on');
  (await service.upstream.call(1)).response.end(text('three') + STOP + DONE);
  const message = await lastOf(resumed as NonNullable<typeof resumed>);
  t.match(message.parts.at(-1), { type: 'text', text: 'one two three' });
  t.equal(message.id, (first.value as { messageId?: string }).messageId, 'the same message');
  t.equal(await reconnect(), null, 'and has ended');
  t.equal(service.upstream.calls.length, 1, 'asked once');
});

t.test('useChat: stop ends the upstream call', async (t) => {
  const plain = await serviceOf(t, 'openai', unfinishedAnswer('one '));
  const controller = new AbortController();
  await send(plain, [user('q')], {}, controller.signal);
  const call = await plain.upstream.call(1);
  controller.abort();
  await call.closed;
  t.notOk(call.finished, 'at once where the chat cannot resume');

  const service = await serviceOf(t, 'openai', unfinishedAnswer('one '));
  const stream = await send(service, [user('q')], { resumable: true });
  const { value } = await stream.getReader().read();
  const { url } = (value as { messageMetadata: { url: string } }).messageMetadata;
  await fetch(`${service.url}${url}/stop`, { method: 'POST' });
  await until(() => service.upstream.calls[0]?.closedAt !== undefined, 'the upstream call has ended');
  t.pass('by the url in the message’s metadata where it can');
});

t.test('useChat: a failure is an error, and a refusal one before the stream', async (t) => {
  const service = await serviceOf(t, 'openai', ({ response }) => void response.writeHead(500).end('SECRET'));
  await t.rejects(lastOf(await send(service, [user('q')])), { message: 'The provider failed.' });
  await t.rejects(send(service, [user('q')], { model: 'no/such' }), /Unknown model/);
  const pdf: UIMessage = {
    id: 'u',
    role: 'user',
    parts: [{ type: 'file', mediaType: 'application/pdf', url: 'data:,x' }],
  };
  await t.rejects(send(service, [pdf]), /parts.0 is a file/);
});

t.test('a tool call that was cut off cannot be run', async (t) => {
  const service = await serviceOf(t, 'openai', ({ response }) => {
    const call = { index: 0, id: 'c1', function: { name: 'f', arguments: '{"a":' } };
    sse(response).end(chunk({ tool_calls: [call] }, 'length') + DONE);
  });
  const message = await lastOf(await send(service, [user('q')]));
  t.match(message.parts.at(-1), {
    type: 'tool-f',
    state: 'output-error',
    errorText: 'The arguments of this call are not complete.',
  });
});

t.test('useChat: the second step goes on with the page’s own message', async (t) => {
  const service = await serviceOf(
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
  const asked: UIMessage = {
    id: 'a1',
    role: 'assistant',
    parts: [{ type: 'step-start' }, { type: 'reasoning', text: 'hm' }, call],
  };
  const stream = await send(service, [user('q'), asked]);
  t.match((await stream.getReader().read()).value, { type: 'start', messageId: 'a1' });
  const [, assistant] = JSON.parse((await service.upstream.call(1)).body).messages;
  t.match(assistant, { tool_calls: [{ id: 'c1' }], reasoning_content: 'hm' }, 'with what it had thought');
});

t.test('a call that was stopped before it was whole is not run', async (t) => {
  const service = await serviceOf(t, 'openai', ({ response }) => {
    sse(response).write(chunk({ tool_calls: [{ index: 0, id: 'c1', function: { name: 'f', arguments: '' } }] }));
  });
  const stream = await send(service, [user('q')]);
  const kinds: string[] = [];
  let stopUrl = '';
  for await (const part of stream as unknown as AsyncIterable<{
    type: string;
    messageMetadata?: { stopUrl: string };
  }>) {
    kinds.push(part.type);
    stopUrl ||= part.messageMetadata?.stopUrl ?? '';
    if (part.type === 'tool-input-start') await fetch(`${service.url}${stopUrl}`, { method: 'POST' });
  }
  t.ok(kinds.includes('tool-input-error') && !kinds.includes('tool-input-available'), kinds.join(' '));
});
