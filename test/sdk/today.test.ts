import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import {
  DefaultChatTransport,
  generateObject,
  generateText,
  jsonSchema,
  readUIMessageStream,
  stepCountIs,
  tool,
  type UIMessage,
} from 'ai';
import OpenAI from 'openai';
import { zodResponseFormat } from 'openai/helpers/zod';
import t from 'tap';
import { noRedis, startRedis } from '../redis.ts';
import type { Script } from '../upstream.ts';
import { type Served, serveTargets } from './service.ts';
import { STRICT_UPSTREAMS, type StrictUpstream, TEXTS } from './strict-upstreams.ts';
import { PARAMETERS, Weather } from './weather.ts';

/** Tests what people do with the official SDKs today, against upstreams that refuse what the real ones refuse. */

const PDF = 'data:application/pdf;base64,JVBERi0xLjc=';
const MESSAGES = [{ role: 'user' as const, content: 'What is the weather in Oslo?' }];

const sdk = ({ url }: Served) => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any', maxRetries: 0 });
const aiModel = ({ url }: Served) =>
  createOpenAICompatible({ name: 'sluice', baseURL: `${url}/v1`, supportsStructuredOutputs: true }).chatModel(
    'weather',
  );

type Params = Parameters<OpenAI['chat']['completions']['create']>[0];
const TOOLS = [{ type: 'function' as const, function: { name: 'weather', parameters: PARAMETERS } }];

/** Asks with the tool, runs it, and returns the messages of the next request. */
async function firstTurn(client: OpenAI, options: object = {}): Promise<Params['messages']> {
  const request = { model: 'weather', messages: MESSAGES, tools: TOOLS, ...options };
  const stream = client.chat.completions.stream(request);
  const { choices } = await stream.finalChatCompletion();
  const message = choices[0]?.message as (typeof choices)[number]['message'];
  const results = (message.tool_calls ?? []).map(({ id }) => ({
    role: 'tool' as const,
    tool_call_id: id,
    content: '{"degrees":7}',
  }));
  return [...MESSAGES, message, ...results];
}

const secondTurn = async (client: OpenAI, messages: Params['messages']) => {
  const answer = await client.chat.completions.create({ model: 'weather', messages, tools: TOOLS });
  return answer.choices[0]?.message.content;
};

/** Returns the messages as a client sends them that knows only the documented fields. */
function withoutState(messages: Params['messages']): Params['messages'] {
  return messages.map((message) => {
    if (message.role !== 'assistant') return message;
    const calls = (message.tool_calls ?? []) as { id: string; function: { name: string; arguments: string } }[];
    const toolCalls = calls.map(({ id, function: { name, arguments: args } }) => ({
      id,
      type: 'function' as const,
      function: { name, arguments: args },
    }));
    return { role: 'assistant' as const, content: message.content ?? null, tool_calls: toolCalls };
  });
}

for (const upstream of STRICT_UPSTREAMS) {
  t.test(`${upstream.type}: the openai SDK parses a structured answer`, async (t) => {
    const client = sdk(await serveTargets(t, [upstream]));
    const completion = await client.chat.completions.parse({
      model: 'weather',
      messages: MESSAGES,
      temperature: 0,
      response_format: zodResponseFormat(Weather, 'weather'),
    });
    t.same(completion.choices[0]?.message.parsed, { city: 'Oslo', degrees: 7 });
  });

  t.test(`${upstream.type}: the openai SDK runs tools over two turns, with and without reasoning`, async (t) => {
    const client = sdk(await serveTargets(t, [upstream]));
    for (const options of [{}, { reasoning_effort: 'high' as const }, { stream: true as const }]) {
      const runner = client.chat.completions.runTools({
        model: 'weather',
        messages: MESSAGES,
        ...options,
        tools: [
          {
            type: 'function',
            function: {
              name: 'weather',
              description: 'Returns the weather.',
              parameters: PARAMETERS,
              parse: JSON.parse,
              function: ({ city }: { city: string }) => ({ city, degrees: 7 }),
            },
          },
        ],
      } as never);
      t.equal(await runner.finalContent(), TEXTS.weather, JSON.stringify(options));
    }
  });

  t.test(`${upstream.type}: the AI SDK generates an object and runs a tool`, async (t) => {
    const model = aiModel(await serveTargets(t, [upstream]));
    const { object } = await generateObject({ model, schema: Weather, prompt: 'Weather?', temperature: 0 });
    t.same(object, { city: 'Oslo', degrees: 7 });
    const weather = tool({
      inputSchema: jsonSchema<{ city: string }>(PARAMETERS),
      execute: async () => ({ degrees: 7 }),
    });
    const { text, steps } = await generateText({
      model,
      prompt: 'Weather?',
      tools: { weather },
      stopWhen: stepCountIs(3),
    });
    t.equal(text, TEXTS.weather);
    t.equal(steps.length, 2);
  });

  t.test(`${upstream.type}: useChat sends a PDF`, async (t) => {
    const served = await serveTargets(t, [upstream]);
    const file = { type: 'file' as const, mediaType: 'application/pdf', url: PDF, filename: 'a.pdf' };
    const asked = send(served, [{ id: 'u', role: 'user', parts: [file, { type: 'text', text: 'What is it?' }] }]);
    if (!upstream.hasFiles) {
      await t.rejects(asked, /does not support messages/);
      t.equal(served.upstreams[0]?.calls.length, 0, 'nobody is asked');
      return;
    }
    t.equal(textOf(await asked), 'Document JVBERi0x');
  });

  t.test(`${upstream.type}: useChat runs a tool and goes on, also if the page drops metadata`, async (t) => {
    const served = await serveTargets(t, [upstream]);
    for (const keepsMetadata of [true, false]) {
      const user: UIMessage = { id: 'u', role: 'user', parts: [{ type: 'text', text: 'Weather?' }] };
      const tools = [{ name: 'weather', parameters: PARAMETERS }];
      const called = await send(served, [user], { tools });
      const parts = called.parts.map((part) => {
        if (part.type !== 'tool-weather') return part;
        const { callProviderMetadata, ...call } = part as typeof part & { callProviderMetadata?: unknown };
        const done = { ...call, state: 'output-available', output: { degrees: 7 } };
        return keepsMetadata ? { ...done, callProviderMetadata } : done;
      }) as UIMessage['parts'];
      t.ok(
        parts.some(({ type }) => type === 'tool-weather'),
        'the page is asked to run the tool',
      );
      const answer = await send(served, [user, { ...called, parts }], { tools });
      t.equal(textOf(answer), TEXTS.weather);
    }
  });

  t.test(`${upstream.type}: state comes back from the client, or is known by the id of the call`, async (t) => {
    const first = await serveTargets(t, [upstream]);
    const { upstreams } = first;
    const messages = await firstTurn(sdk(first));
    t.equal(await secondTurn(sdk(first), withoutState(messages)), TEXTS.weather, 'a client that drops it');
    const other = await serveTargets(t, [upstream], { upstreams });
    t.equal(await secondTurn(sdk(other), messages), TEXTS.weather, 'another service, a client that keeps it');
    if (upstream.type === 'ollama' || upstream.type === 'gemini') return; // They need no state, or accept a placeholder.
    const unknown = secondTurn(sdk(await serveTargets(t, [upstream], { upstreams })), withoutState(messages));
    await t.rejects(unknown, /400/, 'another service, a client that drops it: the upstream notices');
  });
}

t.test('with Redis, another replica knows the state of a client that drops it', { skip: noRedis }, async (t) => {
  const env = { REDIS_URL: (await startRedis(t)).url };
  const anthropic = STRICT_UPSTREAMS.filter(({ type }) => type === 'anthropic');
  const a = await serveTargets(t, anthropic, { env });
  const b = await serveTargets(t, anthropic, { env, upstreams: a.upstreams });
  const messages = await firstTurn(sdk(a));
  t.equal(await secondTurn(sdk(b), withoutState(messages)), TEXTS.weather);
});

/** Answers the first step of a conversation with tools, and fails in the second one. */
const failsInSecondStep =
  ({ script }: StrictUpstream): Script =>
  (call) => {
    const isSecond = /"(tool_result|functionResponse|function_call_output)"|"role":"tool"/.test(call.body);
    if (!isSecond) return script(call);
    call.response.writeHead(503, { 'content-type': 'application/json', 'x-should-retry': 'false' }).end('{}');
  };

t.test('a fallback in the second step of a tool run goes from every provider to every other one', async (t) => {
  for (const from of STRICT_UPSTREAMS) {
    for (const to of STRICT_UPSTREAMS) {
      if (from === to) continue;
      const served = await serveTargets(t, [{ ...from, script: failsInSecondStep(from) }, to]);
      const client = sdk(served);
      const messages = await firstTurn(client, { reasoning_effort: 'medium' });
      t.equal(await secondTurn(client, messages), TEXTS.weather, `${from.type} → ${to.type}`);
      const bodies = served.upstreams[1]?.calls.map(({ body }) => body).join('') ?? '';
      t.notMatch(bodies, new RegExp(`${from.type}-STATE`, 'i'), 'the state of one provider does not reach another');
    }
  }
});

t.test('ids of tool calls of up to 8 KiB are accepted back, and changed alike in call and result', async (t) => {
  for (const upstream of STRICT_UPSTREAMS) {
    const client = sdk(await serveTargets(t, [upstream]));
    for (const id of ['functions.weather:0', 'x'.repeat(8_192), 'ümläut 🚀', 'a'.repeat(64)]) {
      const messages: Params['messages'] = [
        ...MESSAGES,
        {
          role: 'assistant',
          content: null,
          tool_calls: [{ id, type: 'function', function: { name: 'weather', arguments: '{"city":"Oslo"}' } }],
        },
        { role: 'tool', tool_call_id: id, content: '7' },
      ];
      t.equal(await secondTurn(client, messages), TEXTS.weather, `${upstream.type}: ${id.slice(0, 20)}`);
    }
  }
});

/** Sends messages as `useChat` does, and returns the complete answer. */
async function send({ url }: Served, messages: UIMessage[], body: object = {}): Promise<UIMessage> {
  const transport = new DefaultChatTransport({ api: `${url}/ui/chat`, body: { model: 'weather', ...body } });
  const stream = await transport.sendMessages({
    chatId: 'chat',
    messages,
    trigger: 'submit-message',
    messageId: undefined,
    abortSignal: undefined,
  });
  let last: UIMessage | undefined;
  for await (const message of readUIMessageStream({ stream, terminateOnError: true })) last = message;
  if (last === undefined) throw new Error('the stream has no message');
  return last;
}

/** Returns the last text of a message. */
const textOf = ({ parts }: UIMessage) => parts.flatMap((part) => (part.type === 'text' ? [part.text] : [])).at(-1);
