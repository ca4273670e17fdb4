import { createOpenAI } from '@ai-sdk/openai';
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';
import OpenAI, { APIError } from 'openai';
import { zodTextFormat } from 'openai/helpers/zod';
import t from 'tap';
import { until } from '../helper.ts';
import { chunk, DONE, numberedAnswer, numberedDeltas, STOP, sse, text, unfinishedAnswer } from '../upstream.ts';
import { type Served, serveProvider, serveTargets } from './service.ts';
import { STRICT_UPSTREAMS, TEXTS } from './strict-upstreams.ts';
import { PARAMETERS, Weather } from './weather.ts';

/** `/v1/responses` with the official SDKs, against upstreams that refuse what the real ones refuse. */

// The AI SDK says on the console that it leaves out reasoning that has no state.
Object.assign(globalThis, { AI_SDK_LOG_WARNINGS: false });

const QUESTION = 'What is the weather in Oslo?';
const TOOLS = [{ type: 'function' as const, name: 'weather', parameters: PARAMETERS, strict: true }];

const sdk = ({ url }: Pick<Served, 'url'>) => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any', maxRetries: 0 });
type Create = OpenAI.Responses.ResponseCreateParamsNonStreaming;
type Event = OpenAI.Responses.ResponseStreamEvent;

/** Returns the outputs of the calls of a response. */
function outputsOf({ output }: OpenAI.Responses.Response) {
  const calls = output.filter((item) => item.type === 'function_call');
  return calls.map(({ call_id }) => ({ type: 'function_call_output' as const, call_id, output: '{"degrees":7}' }));
}

async function eventsOf(stream: AsyncIterable<Event>): Promise<Event[]> {
  const events: Event[] = [];
  for await (const event of stream) events.push(event);
  return events;
}

const textOf = (events: readonly Event[]) =>
  events.map((event) => (event.type === 'response.output_text.delta' ? event.delta : '')).join('');

for (const upstream of STRICT_UPSTREAMS) {
  t.test(`${upstream.type}: the openai SDK runs tools over two turns`, async (t) => {
    const client = sdk(await serveTargets(t, [upstream]));
    const first = { model: 'weather', input: QUESTION, tools: TOOLS };
    const second = async (fields: Create) => (await client.responses.create({ ...fields, tools: TOOLS })).output_text;

    const stored = await client.responses.create(first);
    const outputs = outputsOf(stored);
    t.equal(outputs.length, 1);
    t.equal(await second({ previous_response_id: stored.id, input: outputs }), TEXTS.weather, 'a stored conversation');
    const asked = { role: 'user' as const, content: QUESTION };
    const references = stored.output.map(({ id = '' }) => ({ type: 'item_reference' as const, id }));
    t.equal(await second({ input: [asked, ...references, ...outputs] }), TEXTS.weather, 'references to items');

    const stateless = { store: false, include: ['reasoning.encrypted_content' as const] };
    const runner = client.responses.stream({ ...first, ...stateless });
    const kept = await runner.finalResponse();
    const hasState = kept.output.some((item) => item.type === 'reasoning' && item.encrypted_content);
    t.equal(hasState, upstream.type !== 'ollama', 'the state of the provider is in the output');
    const items = kept.output as OpenAI.Responses.ResponseInput;
    // Another service knows nothing of the first one, so all that the provider wants back must be in the items.
    const elsewhere = sdk(await serveTargets(t, [upstream]));
    const input = [asked, ...items, ...outputsOf(kept)];
    const { output_text } = await elsewhere.responses.create({ ...stateless, model: 'weather', input, tools: TOOLS });
    t.equal(output_text, TEXTS.weather, 'own items, at another service');
  });

  t.test(`${upstream.type}: the openai SDK parses a structured answer`, async (t) => {
    const client = sdk(await serveTargets(t, [upstream]));
    const request = { model: 'weather', input: QUESTION, text: { format: zodTextFormat(Weather, 'weather') } };
    t.same((await client.responses.parse(request)).output_parsed, { city: 'Oslo', degrees: 7 });
    const streamed = await client.responses.stream(request).finalResponse();
    t.same(streamed.output_parsed, { city: 'Oslo', degrees: 7 });
  });

  t.test(`${upstream.type}: the AI SDK generates an object and runs a tool`, async (t) => {
    const { url } = await serveTargets(t, [upstream]);
    const model = createOpenAI({ baseURL: `${url}/v1`, apiKey: 'any' })('weather');
    const { object } = await generateObject({ model, schema: Weather, prompt: QUESTION });
    t.same(object, { city: 'Oslo', degrees: 7 });
    const weather = tool({
      inputSchema: jsonSchema<{ city: string }>(PARAMETERS),
      execute: async () => ({ degrees: 7 }),
    });
    const options = { model, prompt: QUESTION, tools: { weather }, stopWhen: stepCountIs(3) };
    const whole = await generateText(options);
    t.same([whole.text, whole.steps.length], [TEXTS.weather, 2]);
    const streamed = streamText(options);
    t.same([await streamed.text, (await streamed.steps).length], [TEXTS.weather, 2]);
    const stateless = await generateText({ ...options, providerOptions: { openai: { store: false } } });
    t.equal(stateless.text, TEXTS.weather, 'without stored items');
  });
}

t.test('a document reaches every provider that reads documents', async (t) => {
  for (const upstream of STRICT_UPSTREAMS.filter(({ hasFiles }) => hasFiles)) {
    const client = sdk(await serveTargets(t, [upstream]));
    const file = {
      type: 'input_file' as const,
      filename: 'a.pdf',
      file_data: 'data:application/pdf;base64,JVBERi0xLjc=',
    };
    const content = [{ type: 'input_text' as const, text: 'Read.' }, file];
    const { output_text } = await client.responses.create({ model: 'weather', input: [{ role: 'user', content }] });
    t.equal(output_text, 'Document JVBERi0x', upstream.type);
  }
});

t.test('a background answer that is cut anywhere continues, both ways of the SDK', async (t) => {
  const service = await serveProvider(t, 'openai', numberedAnswer(8, 1));
  const client = sdk(service);
  const whole = await eventsOf(
    await client.responses.create({ model: 'p/m', input: 'q', background: true, stream: true }),
  );
  t.equal(textOf(whole), numberedDeltas(8).join(''));
  const [created] = whole;
  const id = created?.type === 'response.created' ? created.response.id : '';
  for (const { sequence_number: after } of whole) {
    const rest = whole.slice(after + 1);
    t.same(await eventsOf(await client.responses.retrieve(id, { stream: true, starting_after: after })), rest);
    const helper = client.responses.stream({ response_id: id, starting_after: after });
    const events: object[] = [];
    for await (const event of helper) events.push(event);
    t.same(events, rest, `the helper behind ${after}`);
    t.equal((await helper.finalResponse()).output_text, textOf(whole));
  }
  t.equal(service.upstream.calls.length, 1);
});

t.test('a background answer continues without a reader, and is polled', async (t) => {
  const service = await serveProvider(t, 'openai', ({ response }) => void sse(response).write(text('Hel')));
  const client = sdk(service);
  const { id, status, background } = await client.responses.create({ model: 'p/m', input: 'q', background: true });
  t.same([status, background], ['queued', true]);
  const stream = await client.responses.create({ model: 'p/m', input: 'r', background: true, stream: true });
  for await (const event of stream) if (event.type === 'response.output_text.delta') break;
  const call = await service.upstream.call(1);
  const cut = await service.upstream.call(2);
  t.match(await client.responses.retrieve(id), { status: 'in_progress', output: [], completed_at: undefined });
  for (const { response } of [call, cut]) response.end(text('lo') + STOP + DONE);
  const polled = () => client.responses.retrieve(id);
  await until(async () => (await polled()).status !== 'in_progress', 'the answer has ended');
  t.match(await polled(), { status: 'completed', output_text: 'Hello', completed_at: Number });
  t.equal(service.upstream.calls.length, 2);
});

t.test('a background answer is cancelled', async (t) => {
  const service = await serveProvider(t, 'openai', unfinishedAnswer('Hel'));
  const client = sdk(service);
  const stream = await client.responses.create({ model: 'p/m', input: 'q', background: true, stream: true });
  const events: Event[] = [];
  let id = '';
  for await (const event of stream) {
    events.push(event);
    if (event.type === 'response.created') id = event.response.id;
    if (event.type !== 'response.output_text.delta') continue;
    t.match(await client.responses.cancel(id), { status: 'cancelled', output: [{ content: [{ text: 'Hel' }] }] });
  }
  t.match(events.at(-1), { type: 'response.incomplete', response: { status: 'cancelled' } });
  await (await service.upstream.call(1)).closed;
  t.match(await client.responses.retrieve(id), { status: 'cancelled', output_text: 'Hel' });
  t.match(await client.responses.cancel(id), { status: 'cancelled' }, 'a second time');
  const { id: other } = await client.responses.create({ model: 'p/m', input: 'q', background: true });
  await service.upstream.call(2);
  await client.responses.delete(other);
  await (await service.upstream.call(2)).closed;
  t.equal(await client.responses.retrieve(other).catch(({ status }) => status), 404);
});

t.test('a failure before the first token is an exception, one after it is response.failed', async (t) => {
  const service = await serveProvider(t, 'openai', ({ response, body }) => {
    if (body.includes('refuse')) {
      response.writeHead(400, { 'content-type': 'application/json' });
      response.end('{"error":{"message":"secret","type":"invalid_request_error","code":"context_length_exceeded"}}');
    } else sse(response).end(text('Hel') + chunk({}, 'error') + DONE);
  });
  const client = sdk(service);
  for (const stream of [true, false]) {
    const asking = client.responses.create({ model: 'p/m', input: 'refuse', stream });
    const error = (await asking.then(
      () => undefined,
      (fault) => fault,
    )) as APIError;
    t.ok(error instanceof APIError);
    t.same([error.status, error.code], [400, 'context_length_exceeded']);
    t.equal(error.headers?.get('x-should-retry'), 'false');
  }
  const events = await eventsOf(await client.responses.create({ model: 'p/m', input: 'q', stream: true }));
  t.match(events.at(-1), { type: 'response.failed', response: { status: 'failed', error: { code: /^upstream_/ } } });
  t.equal(textOf(events), 'Hel');
  const background = await client.responses.create({ model: 'p/m', input: 'refuse', background: true, stream: true });
  t.match((await eventsOf(background)).at(-1), { response: { error: { code: 'context_length_exceeded' } } });

  const ai = createOpenAI({ baseURL: `${service.url}/v1`, apiKey: 'any' })('p/m');
  const errors: unknown[] = [];
  const streamed = streamText({
    model: ai,
    prompt: 'q',
    onError: ({ error }) => void errors.push(error),
    maxRetries: 0,
  });
  await streamed.consumeStream();
  t.equal(errors.length, 1, 'the AI SDK reports the failure');
  t.equal(await streamed.finishReason, 'error');
});
