import { setTimeout as sleep } from 'node:timers/promises';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import t, { type Test } from 'tap';
import { bellaAt, deferred, serve, until } from '../helper.ts';
import { open } from '../sse-client.ts';
import { tcpProxy } from '../tcp-proxy.ts';
import {
  type Call,
  chunk,
  DONE,
  numberedAnswer,
  numberedDeltas,
  STOP,
  sse,
  startUpstream,
  text,
  unfinishedAnswer,
} from '../upstream.ts';
import { load, noClients } from './packages.ts';
import { SDKS } from './sdks.ts';

/** Packages that people use in Node: what each can do is the table of docs/clients.md. */

// biome-ignore lint/suspicious/noExplicitAny: the packages have no types here
type Any = any;

const DELTAS = ['one ', '二 ', 'three\n\n', '🚀'];
const ANSWER = DELTAS.join('');
const HEARTBEAT_MS = 20;

/** Answers with a pause before every event, in which heartbeats are sent. */
const pausing = async ({ response }: Call) => {
  sse(response);
  for (const event of [...DELTAS.map(text), STOP, DONE]) {
    await sleep(6 * HEARTBEAT_MS);
    response.write(event);
  }
  response.end();
};

const serveBella = async (t: Test, script: Parameters<typeof startUpstream>[1], env: Record<string, string> = {}) => {
  const upstream = await startUpstream(t, script);
  const { url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_FLUSH_MS: '0', ...env }) });
  return { url, upstream };
};

/** Reads with a package that has the interface of EventSource, until the answer ends. */
async function readWith(name: string, url: string, onEvent: (event: Any) => void = () => {}): Promise<string> {
  const { EventSource } = await load<Any>(name);
  const source = new EventSource(url);
  let received = '';
  try {
    return await new Promise<string>((resolve, reject) => {
      source.onmessage = ({ data }: { data: string }) => {
        const event = JSON.parse(data);
        onEvent(event);
        if (event.type === 'delta') received += event.content;
        if (event.type === 'error') reject(new Error(event.message));
        if (event.type === 'end') resolve(received);
      };
    });
  } finally {
    source.close();
  }
}

const EVENT_SOURCES = { 'eventsource 4': 'eventsource', 'eventsource 5': 'eventsource5' };

t.test('heartbeats between all events', { skip: noClients }, async (t) => {
  const { url, upstream } = await serveBella(t, pausing, { STREAM_HEARTBEAT_MS: String(HEARTBEAT_MS) });
  const raw = await open(`${url}/ask/stream?question=q`);
  await raw.ended;
  t.ok(raw.comments.length >= DELTAS.length, `${raw.comments.length} comments`);
  const chunks = await open(`${url}/v1/chat/completions`, {
    body: { stream: true, messages: [{ role: 'user', content: 'q' }] },
  });
  await chunks.ended;
  t.equal(chunks.comments.length, 0, 'no comments in a stream of chunks, which go-openai cannot read before an error');
  const isEmpty = ({ json }: { json: Any }) => json && Object.keys(json.choices[0].delta).length === 0;
  t.ok(chunks.events.filter(isEmpty).length > DELTAS.length, 'chunks without content');
  t.equal(chunks.events[0]?.json.choices[0].delta.role, 'assistant', 'the role is in the first chunk');
  const before = upstream.calls.length;
  await Promise.all([
    ...Object.entries(EVENT_SOURCES).map(async ([name, specifier]) => {
      t.equal(await readWith(specifier, `${url}/ask/stream?question=q`), ANSWER, name);
    }),
    ...Object.entries(SDKS).map(async ([name, ask]) => {
      const seen = await ask({ baseURL: `${url}/v1`, model: 'bella/gpt-4o', stream: true });
      t.same(seen, { text: ANSWER, error: undefined }, name);
    }),
  ]);
  t.equal(upstream.calls.length - before, Object.keys({ ...EVENT_SOURCES, ...SDKS }).length, 'one call for each');
});

t.test('eventsource 4 and 5: a cut loses nothing, and stop ends the call', { skip: noClients }, async (t) => {
  const cut = deferred();
  const { url, upstream } = await serveBella(t, numberedAnswer(40, 1, cut.promise));
  const proxy = await tcpProxy(t, url);
  let reading = 0;
  const texts = Object.entries(EVENT_SOURCES).map(async ([name, specifier]) => {
    let hasText = false;
    const received = await readWith(specifier, `${proxy.url}/ask/stream?question=${specifier}`, ({ type }) => {
      if (type !== 'delta' || hasText) return;
      hasText = true;
      reading += 1;
    });
    t.equal(received, numberedDeltas(40).join(''), name);
  });
  await until(() => reading === 2, 'both have some text');
  proxy.cut();
  cut.resolve();
  await Promise.all(texts);
  t.equal(upstream.calls.length, 2, 'one call for each');
  t.ok(proxy.requests.length > 2, 'both were cut');

  const endless = await serveBella(t, unfinishedAnswer('one '));
  for (const specifier of Object.values(EVENT_SOURCES)) {
    await readWith(specifier, `${endless.url}/ask/stream?question=q`, ({ type, url: path }) => {
      if (type === 'start') fetch(`${endless.url}${path}`, { method: 'DELETE' }).catch(() => {});
    });
  }
  await until(() => endless.upstream.calls.every(({ closedAt }) => closedAt !== undefined), 'both calls have ended');
});

const MESSAGES = [{ role: 'user', content: 'q' }];
const PARAMETERS = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const WEATHER = { name: 'weather', description: 'Weather', parameters: PARAMETERS };
/** A call with an id as gateways make it: it has the signature of the provider. */
const CALL_ID = `call_${'s'.repeat(4_567)}`;

/** Thinks, calls a tool, and answers with its result. */
const withTool = ({ body, response }: Call) => {
  const last = JSON.parse(body).messages.at(-1);
  if (last.role === 'tool') {
    const isSame = last.tool_call_id === CALL_ID;
    return void sse(response).end(text(isSame ? `It is ${last.content}.` : 'Another id.') + STOP + DONE);
  }
  const call = { index: 0, id: CALL_ID, type: 'function', function: { name: 'weather', arguments: '{"city":"Oslo"}' } };
  sse(response).end(
    chunk({ reasoning_content: 'hm' }) + chunk({ tool_calls: [call] }) + chunk({}, 'tool_calls') + DONE,
  );
};

const forOpenAI = ['openai', 'openai7'] as const;

t.test('openai 6 and 7: tools, reasoning, resume and stop', { skip: noClients }, async (t) => {
  const { url } = await serveBella(t, withTool);
  const endless = await serveBella(t, unfinishedAnswer('one '));
  for (const name of forOpenAI) {
    const { default: OpenAI } = await load<Any>(name);
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any' });
    for (const stream of [true, false]) {
      let reasoning = '';
      const runner = client.chat.completions.runTools({
        model: 'bella/gpt-4o',
        messages: MESSAGES,
        stream,
        tools: [
          {
            type: 'function',
            function: { ...WEATHER, parse: JSON.parse, function: ({ city }: Any) => `cold in ${city}` },
          },
        ],
      });
      runner.on('chunk', ({ choices }: Any) => {
        reasoning += choices[0]?.delta.reasoning_content ?? '';
      });
      t.equal(await runner.finalContent(), 'It is cold in Oslo.', `${name}: a tool, ${stream ? 'streamed' : 'whole'}`);
      if (stream) t.equal(reasoning, 'hm', `${name}: reasoning`);
    }

    const asking = new OpenAI({ baseURL: `${endless.url}/v1`, apiKey: 'any' });
    const request = { model: 'bella/gpt-4o', messages: MESSAGES, stream: true };
    const headers = { 'Idempotency-Key': `key-of-${name}` };
    const calls = endless.upstream.calls.length;
    const first = await asking.chat.completions.create(request, { headers });
    for await (const { choices } of first) if (choices[0]?.delta.content) break;
    const again = await asking.chat.completions.create(request, { headers });
    const call = await endless.upstream.call(calls + 1);
    call.response.end(text('two') + STOP + DONE);
    let received = '';
    for await (const { choices } of again) received += choices[0]?.delta.content ?? '';
    t.equal(received, 'one two', `${name}: the same key gets the same answer from its beginning`);
    t.equal(endless.upstream.calls.length, calls + 1, `${name}: one call`);

    const stopped = await asking.chat.completions.create(request);
    for await (const { choices } of stopped) if (choices[0]?.delta.content) break;
    await (await endless.upstream.call(calls + 2)).closed;
    t.pass(`${name}: leaving the loop ends the call`);
  }
});

t.test('LangChain: tools and stop', { skip: noClients }, async (t) => {
  const { ChatOpenAI } = await load<Any>('@langchain/openai');
  const { HumanMessage, ToolMessage } = await load<Any>('@langchain/core/messages');
  const { url } = await serveBella(t, withTool);
  const model = new ChatOpenAI({ model: 'bella/gpt-4o', apiKey: 'any', configuration: { baseURL: `${url}/v1` } });
  const bound = model.bindTools([{ type: 'function', function: WEATHER }]);
  const question = new HumanMessage('q');
  let called: Any;
  for await (const part of await bound.stream([question])) called = called ? called.concat(part) : part;
  const [{ id, args }] = called.tool_calls;
  t.same(args, { city: 'Oslo' });
  const answer = await bound.invoke([
    question,
    called,
    new ToolMessage({ tool_call_id: id, content: `cold in ${args.city}` }),
  ]);
  t.equal(answer.content, 'It is cold in Oslo.', 'a tool');

  const endless = await serveBella(t, unfinishedAnswer('one '));
  const asking = new ChatOpenAI({
    model: 'bella/gpt-4o',
    apiKey: 'any',
    configuration: { baseURL: `${endless.url}/v1` },
  });
  const controller = new AbortController();
  const reading = (async () => {
    for await (const { content } of await asking.stream('q', { signal: controller.signal }))
      if (content) controller.abort();
  })();
  await t.rejects(reading, /abort/i);
  await (await endless.upstream.call(1)).closed;
  t.pass('an abort ends the call');
});

t.test('LlamaIndex: tools', { skip: noClients }, async (t) => {
  const { OpenAI } = await load<Any>('@llamaindex/openai');
  const { url } = await serveBella(t, withTool);
  const llm = new OpenAI({ model: 'bella/gpt-4o', apiKey: 'any', baseURL: `${url}/v1` });
  const tools = [{ metadata: WEATHER, call: () => '' }];
  const called = await llm.chat({ messages: MESSAGES, tools });
  const [{ id, input }] = called.message.options.toolCall;
  t.match(JSON.stringify(input), /Oslo/);
  const result = {
    role: 'user',
    content: 'cold in Oslo',
    options: { toolResult: { id, result: 'cold in Oslo', isError: false } },
  };
  const answer = await llm.chat({ messages: [...MESSAGES, called.message, result], tools });
  t.equal(answer.message.content, 'It is cold in Oslo.');
});

t.test('ai 6 and 7 with openai-compatible: tools, reasoning and stop', { skip: noClients }, async (t) => {
  const { url } = await serveBella(t, withTool);
  const endless = await serveBella(t, unfinishedAnswer('one '));
  for (const [n, name] of ['ai6', 'ai'].entries()) {
    const { jsonSchema, stepCountIs, isStepCount, streamText, tool } = await load<Any>(name);
    const modelOf = (base: string) =>
      createOpenAICompatible({ name: 'sluice', baseURL: `${base}/v1` }).chatModel('bella/gpt-4o');
    const weather = tool({ inputSchema: jsonSchema(PARAMETERS), execute: async ({ city }: Any) => `cold in ${city}` });
    const result = streamText({
      model: modelOf(url),
      prompt: 'q',
      tools: { weather },
      stopWhen: (stepCountIs ?? isStepCount)(3),
    });
    t.equal(await result.text, 'It is cold in Oslo.', `${name}: a tool`);
    const [first] = await result.steps;
    t.equal(first.reasoningText, 'hm', `${name}: reasoning`);

    const controller = new AbortController();
    const stopped = streamText({ model: modelOf(endless.url), prompt: 'q', abortSignal: controller.signal });
    for await (const part of stopped.fullStream) if (part.type === 'text-delta') controller.abort();
    await (await endless.upstream.call(n + 1)).closed;
    t.pass(`${name}: an abort ends the call`);
  }
});
