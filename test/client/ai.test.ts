import { type ChatTransport, DefaultChatTransport, type UIMessage, type UIMessageChunk } from 'ai';
import fc from 'fast-check';
import t from 'tap';
import { sluiceTransport, type TransportOptions } from '../../client/client-ai.ts';
import { bearer, bellaAt, serve, sha256, until, writeConfig } from '../helper.ts';
import { startUpstream } from '../upstream.ts';
import { answer, TEXT } from './answers.ts';
import { CUT, cutHeader, type HeaderCut, startCuttingProxy } from './cuts.ts';

/** The transport for `useChat`, in Node. */

t.jobs = 2;

/** The compiler checks that the transport has the interface of the AI SDK. */
const transport = (options: TransportOptions): ChatTransport<UIMessage> => sluiceTransport(options);

function question(text: string, abortSignal = new AbortController().signal) {
  const messages: UIMessage[] = [{ id: 'u1', role: 'user', parts: [{ type: 'text', text }] }];
  const chatId = text.replaceAll(/\W/g, '-');
  return { trigger: 'submit-message', messageId: undefined, chatId, messages, abortSignal } as const;
}

/** Node iterates over streams; the types of browsers do not know it. */
const iterate = (stream: ReadableStream<UIMessageChunk> | null) =>
  (stream ?? []) as unknown as AsyncIterable<UIMessageChunk>;

async function collect(stream: ReadableStream<UIMessageChunk> | null): Promise<UIMessageChunk[]> {
  const chunks: UIMessageChunk[] = [];
  for await (const chunk of iterate(stream)) chunks.push(chunk);
  return chunks;
}

const textOf = (chunks: readonly UIMessageChunk[]) =>
  chunks.map((chunk) => (chunk.type === 'text-delta' ? chunk.delta : '')).join('');

/** Joins adjacent deltas, and leaves out what differs from stream to stream. */
function normalize(chunks: readonly UIMessageChunk[]): object[] {
  const joined: Record<string, unknown>[] = [];
  for (const { ...chunk } of chunks as unknown as Record<string, unknown>[]) {
    const last = joined.at(-1);
    const isSame = last?.type === chunk.type && /-delta$/.test(String(chunk.type));
    if (last && isSame) {
      for (const field of ['delta', 'inputTextDelta'])
        if (field in chunk) last[field] = `${last[field]}${chunk[field]}`;
      continue;
    }
    if (chunk.type === 'start') for (const field of ['messageId', 'messageMetadata']) delete chunk[field];
    joined.push(chunk);
  }
  return joined;
}

t.test('the chunks are those of the service', async (t) => {
  const upstream = await startUpstream(t, answer);
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  for (const text of ['plain', 'think, with a tool', 'fail']) {
    const [ours, theirs] = await Promise.all([
      collect(await transport({ url }).sendMessages(question(`${text} 1`))),
      collect(await new DefaultChatTransport({ api: `${url}/ui/chat` }).sendMessages(question(`${text} 2`))),
    ]);
    t.same(normalize(ours), normalize(theirs), text);
    t.ok(ours.length > 2, `${ours.length} chunks`);
  }
});

t.test('cuts after any number of bytes, also of the first response, lose and repeat nothing', async (t) => {
  const upstream = await startUpstream(t, answer);
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const proxy = await startCuttingProxy(t, url);
  const cases = fc.sample(fc.array(CUT, { minLength: 1, maxLength: 3 }), { numRuns: 20, seed: 25 });
  const streams = await Promise.all(
    cases.map(async (cuts: readonly HeaderCut[], i) => {
      const left = [...cuts];
      const { sendMessages } = transport({
        url: proxy.url,
        fetch: (input, init) => {
          const headers = { ...(init?.headers as Record<string, string>), ...cutHeader(left.shift()) };
          return fetch(input, { ...init, headers });
        },
      });
      return sendMessages(question(`long ${i}`));
    }),
  );
  for (const [i, chunks] of (await Promise.all(streams.map(collect))).entries()) {
    t.same([textOf(chunks), chunks.at(-1)?.type], [TEXT, 'finish'], JSON.stringify(cases[i]));
  }
  t.equal(upstream.calls.length, cases.length, 'one call for each question');
});

t.test('a question whose response is lost is repeated with its key and its ticket', async (t) => {
  const upstream = await startUpstream(t, answer);
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const asked: Headers[] = [];
  let tickets = 0;
  const failing: (() => Promise<Response>)[] = [];
  const sent = (text: string) =>
    transport({
      url,
      ticket: () => `ticket-${++tickets}`,
      async fetch(input, init) {
        if (!String(input).includes('/ui/')) return fetch(input, init);
        asked.push(new Headers(init?.headers));
        const { authorization: _, ...headers } = Object(init?.headers);
        const response = await fetch(input, { ...init, headers });
        const fail = failing.shift();
        if (fail) await response.text(); // The answer has ended before the question is repeated.
        return fail ? fail() : response;
      },
    }).sendMessages(question(text));
  const lost = async () => {
    throw new TypeError('fetch failed');
  };
  failing.push(
    lost,
    async () => new Response('', { status: 502 }),
    async () => new Response('data: {"type":"sta'),
  );
  t.equal(textOf(await collect(await sent('first'))), TEXT);
  t.equal(asked.length, 4);
  t.equal(new Set(asked.map((headers) => headers.get('idempotency-key'))).size, 1, 'one key');
  t.equal(new Set(asked.map((headers) => headers.get('authorization'))).size, 1, 'one ticket');
  t.equal(upstream.calls.length, 1, 'one call');

  t.equal(textOf(await collect(await sent('first'))), TEXT);
  t.not(asked.at(-1)?.get('idempotency-key'), asked[0]?.get('idempotency-key'), 'the next question has another key');
  t.equal(upstream.calls.length, 2, 'it is asked');
  failing.push(async () => Response.json({ error: { code: 'forbidden', message: 'No.' } }, { status: 403 }));
  await t.rejects(sent('first'), { status: 403, code: 'forbidden', message: 'No.' }, 'a refusal is final');
  t.equal(asked.length, 6);
});

t.test('aborting ends the call, also before the answer has started', async (t) => {
  const upstream = await startUpstream(t, answer);
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const controller = new AbortController();
  const stream = await transport({ url }).sendMessages(question('endless', controller.signal));
  const chunks: UIMessageChunk[] = [];
  const reading = (async () => {
    for await (const chunk of iterate(stream)) chunks.push(chunk);
  })();
  await until(() => textOf(chunks).includes('3 '), 'some text has arrived');
  controller.abort();
  await t.rejects(reading, { name: 'AbortError' });
  await upstream.calls[0]?.closed;

  const early = new AbortController();
  const sending = transport({ url }).sendMessages(question('endless early', early.signal));
  early.abort();
  await t.rejects(sending, { name: 'AbortError' });
  await (await upstream.call(2)).closed;
  t.pass('both calls have ended');
});

t.test('a reconnect brings the steps before the answer, and one connection reads', async (t) => {
  const upstream = await startUpstream(t, answer);
  const { app, url } = await serve(t, { env: bellaAt(upstream.url) });
  const step = [{ type: 'step-start' as const }, { type: 'text' as const, text: 'Let me look.' }];
  const controller = new AbortController();
  const asked = question('endless steps', controller.signal);
  const messages: UIMessage[] = [...asked.messages, { id: 'a1', role: 'assistant', parts: step }];
  const first = (await transport({ url }).sendMessages({ ...asked, messages })).getReader();
  await first.read();
  t.equal(app.responses.open > 0, true);
  await until(() => app.responses.open === 1, 'the response to the question is left');
  const again = await transport({ url }).reconnectToStream({ chatId: asked.chatId });
  const chunks: UIMessageChunk[] = [];
  for await (const chunk of iterate(again)) {
    chunks.push(chunk);
    if (chunk.type === 'text-delta' && chunk.delta !== 'Let me look.') break;
  }
  t.match(chunks, [
    { type: 'start', messageId: 'a1' },
    { type: 'start-step' },
    { type: 'text-start' },
    { type: 'text-delta', delta: 'Let me look.' },
    { type: 'text-end' },
    { type: 'finish-step' },
    { type: 'start-step' },
    { type: 'text-start' },
    { type: 'text-delta' },
  ]);
  t.equal(chunks.length, 9);
  controller.abort();
  await upstream.calls[0]?.closed;
});

t.test('a reconnect reads the running answer from its start, with a new ticket', async (t) => {
  const upstream = await startUpstream(t, answer);
  const config = `keys: [{ name: web, sha256: "${sha256('sk')}" }]\n`;
  const { url } = await serve(t, { env: bellaAt(upstream.url, { CONFIG_FILE: writeConfig(t, config) }) });
  let tickets = 0;
  const ticket = async () => {
    tickets += 1;
    if (tickets === 1) return 'expired';
    const headers = { ...bearer('sk'), 'content-type': 'application/json' };
    const body = JSON.stringify({ visitor: 'ada', questions: 5 });
    const response = await fetch(`${url}/tickets`, { method: 'POST', headers, body });
    return ((await response.json()) as { ticket: string }).ticket;
  };
  const asked = question('endless');
  const controller = new AbortController();
  const first = await transport({ url, ticket }).sendMessages({ ...asked, abortSignal: controller.signal });
  t.equal(tickets, 2, 'a refused ticket is replaced');
  const reader = first.getReader();
  await reader.read();
  const again = await transport({ url, ticket }).reconnectToStream(asked);
  const chunks: UIMessageChunk[] = [];
  const reading = (async () => {
    for await (const chunk of iterate(again)) chunks.push(chunk);
  })();
  await until(() => textOf(chunks).includes('5 '), 'the second reader has text');
  controller.abort();
  await reading;
  t.match(chunks[0], { type: 'start' });
  t.match(chunks.at(-1), { type: 'finish', finishReason: 'stop' });
  t.ok(textOf(chunks).startsWith('0 1 2 3 4 5 '), 'the text from its start');
  t.equal(await transport({ url, ticket }).reconnectToStream(asked), null, 'no answer is running');
  t.equal(upstream.calls.length, 1, 'one call');
  await t.rejects(transport({ url }).sendMessages(asked), { status: 401, code: 'unauthorized' }, 'without a ticket');
});
