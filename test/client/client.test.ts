import fc from 'fast-check';
import t from 'tap';
import { ask, read } from '../../client/client.ts';
import { bearer, bellaAt, deferred, serve, sha256, until, writeConfig } from '../helper.ts';
import { startUpstream } from '../upstream.ts';
import { answer, TEXT } from './answers.ts';
import { CUT, cutHeader, type HeaderCut, startCuttingProxy } from './cuts.ts';
import { collect, failureOf, textOf } from './received.ts';

/** The client in Node: the same code as in a browser, without the shared slots. */

t.jobs = 2;

/** Returns a `fetch` for one answer, whose reads are cut in turn. */
function cutting(cuts: readonly HeaderCut[]): typeof fetch {
  const left = [...cuts];
  return (input, init) => {
    const cut = init?.method === undefined ? left.shift() : undefined;
    return fetch(input, { ...init, headers: { ...(init?.headers as Record<string, string>), ...cutHeader(cut) } });
  };
}

t.test('cuts after any number of bytes lose and repeat nothing, and ask once', async (t) => {
  const upstream = await startUpstream(t, answer);
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const proxy = await startCuttingProxy(t, url);
  const cases = fc.sample(fc.array(CUT, { minLength: 1, maxLength: 3 }), { numRuns: 40, seed: 25 });
  await Promise.all(
    cases.map(async (cuts, i) => {
      const running = ask(`question ${i}`, { url: proxy.url, fetch: cutting(cuts) });
      const events = await collect(running);
      const { answer: text } = await running.answer;
      t.same([textOf(events), running.text, text], [TEXT, TEXT, TEXT], JSON.stringify(cuts));
    }),
  );
  t.equal(upstream.calls.length, cases.length, 'one call for each question');
});

t.test('stop ends the call, and nothing is read after it', async (t) => {
  const upstream = await startUpstream(t, answer);
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const proxy = await startCuttingProxy(t, url);
  const running = ask('endless', { url: proxy.url });
  await until(() => running.text.includes('3 '), 'some text has arrived');
  running.stop();
  const { text } = running;
  t.match(await running.answer, { type: 'end', answer: text, finishReason: 'stopped' });
  await upstream.calls[0]?.closed;
  await until(() => proxy.requests.some((line) => /POST .*\/stop/.test(line)), 'the service is told');
  t.equal(running.text, text, 'the text stays');
  t.equal(proxy.requests.length, 3, 'question, reading, stop');

  const early = ask('endless early', { url: proxy.url });
  await new Promise(setImmediate);
  early.stop();
  await (await upstream.call(2)).closed;
  t.pass('an answer that is stopped while it is being started is stopped when its URL is known');
  const never = ask('endless never', { url: proxy.url });
  never.stop();
  t.match(await never.answer, { answer: '', finishReason: 'stopped' });

  const left = ask('endless left', { url: proxy.url });
  for await (const event of left) if (event.type === 'delta') break;
  await (await upstream.call(3)).closed;
  t.pass('leaving the loop stops the answer');
  t.equal(upstream.calls.length, 3, 'a question that is stopped at once is not asked');
});

t.test('an aborted signal ends reading, and the answer can be read by its URL', async (t) => {
  const upstream = await startUpstream(t, answer);
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const controller = new AbortController();
  const first = ask('endless', { url, signal: controller.signal });
  await until(() => first.text.includes('3 '), 'some text has arrived');
  controller.abort();
  t.match(await failureOf(first), { code: 'aborted' });
  await t.rejects(collect(first), { code: 'aborted' }, 'an iteration throws after the events');
  const second = read(first.url as string, { url });
  await until(() => second.text.startsWith(first.text) && second.text.includes('9 '), 'the second reader has the text');
  second.stop();
  t.match(await failureOf(ask('never', { url, signal: AbortSignal.abort() })), { code: 'aborted' });
  t.equal(upstream.calls.length, 1, 'one call');
});

t.test('options and conversations reach the service, and the same key finds the same answer', async (t) => {
  const upstream = await startUpstream(t, answer);
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const messages = [
    { role: 'user', content: 'one' },
    { role: 'assistant', content: 'two' },
    { role: 'user', content: 'think, with a tool' },
  ] as const;
  const options = { url, key: 'same', system: 'Be brief.', temperature: 0.5, maxTokens: 9, stop: ['x'] };
  const [first, second] = [ask(messages, options), ask(messages, options)];
  const heard: string[] = [];
  second.addEventListener('tool_call', ({ detail }) => heard.push(detail.arguments));
  const events = await collect(first);
  const end = await second.answer;
  t.match(end, { answer: TEXT, finishReason: 'tool_calls' });
  t.equal(heard.join(''), '{"city":"Oslo"}', 'events by name');
  t.equal(events[0]?.type, 'start', 'the first event');
  t.equal(events.map((event) => (event.type === 'reasoning' ? event.content : '')).join(''), 'Let me think.');
  t.equal(upstream.calls.length, 1, 'one call');
  t.match(JSON.parse(upstream.calls[0]?.body ?? ''), {
    messages: [{ role: 'system', content: 'Be brief.' }, ...messages],
    temperature: 0.5,
    max_tokens: 9,
    stop: ['x'],
  });
});

t.test('errors are final with their code, or asked again when the service says when', async (t) => {
  const upstream = await startUpstream(t, answer);
  const limits = `keys: [{ name: web, sha256: "${sha256('sk')}", requestsPerMinute: 60, maxConcurrent: 1 }]\n`;
  const { url } = await serve(t, { env: bellaAt(upstream.url, { CONFIG_FILE: writeConfig(t, limits) }) });
  const ticket = () => 'sk';
  t.match(await failureOf(ask('hi', { url })), { code: 'unauthorized', status: 401, retryable: false });
  t.match(await failureOf(ask('hi', { url, ticket: () => 'no' })), { code: 'unauthorized', status: 401 });
  t.match(await failureOf(ask('', { url, ticket })), { code: 'invalid_request', status: 400 });
  t.match(await failureOf(ask('hi', { url, ticket, model: 'none' })), { code: 'not_found', status: 404 });
  t.match(await failureOf(read('/streams/unknown-unknown-unknown', { url, ticket })), { status: 401 });
  t.match(await failureOf(ask('fail', { url, ticket })), { code: 'upstream_rejected', retryable: false });
  const calls = upstream.calls.length;
  const blocking = ask('endless', { url, ticket });
  await until(() => blocking.text !== '', 'the only slot of the key is in use');
  const waiting = ask('later', { url, ticket });
  let isRefused = false;
  const refused = ask('refused', {
    url,
    ticket,
    fetch: async (...request) => {
      const response = await fetch(...request);
      isRefused ||= response.status === 429;
      return response;
    },
  });
  await until(() => isRefused, 'a question is refused');
  blocking.stop();
  t.equal((await waiting.answer).answer, TEXT, 'a refused question is asked again');
  t.equal((await refused.answer).answer, TEXT, 'so is the other one');
  t.equal(upstream.calls.length, calls + 3, 'one call for each');
});

t.test('a refusal with a ticket asks for a new ticket, and continues the same answer', async (t) => {
  const upstream = await startUpstream(t, answer);
  const config = `keys: [{ name: web, sha256: "${sha256('sk')}" }]\n`;
  const { url } = await serve(t, { env: bellaAt(upstream.url, { CONFIG_FILE: writeConfig(t, config) }) });
  let tickets = 0;
  const ticket = async () => {
    tickets += 1;
    const response = await fetch(`${url}/tickets`, {
      method: 'POST',
      headers: { ...bearer('sk'), 'content-type': 'application/json' },
      body: JSON.stringify({ visitor: 'ada', questions: 5 }),
    });
    return ((await response.json()) as { ticket: string }).ticket;
  };
  let isExpired = false;
  const { promise: hasText, resolve } = deferred();
  const running = ask('long', {
    url,
    ticket,
    // The read ticket expires after the first connection: the service then refuses its signature.
    fetch: async (input, init) => {
      if (init?.method === 'POST') return fetch(input, init);
      if (isExpired) return fetch(input, init);
      const response = await fetch(input, init);
      const cut = response.body?.pipeThrough(
        new TransformStream<Uint8Array, Uint8Array>({
          transform(bytes, controller) {
            controller.enqueue(bytes);
            if (new TextDecoder().decode(bytes).includes('delta')) {
              isExpired = true;
              resolve();
              controller.error(new Error('cut'));
            }
          },
        }),
      );
      return new Response(cut);
    },
  });
  await hasText;
  (running as { url: string }).url = (running.url as string).replace(/ticket=[^.]+/, 'ticket=e30');
  t.equal((await running.answer).answer, TEXT);
  t.equal(running.text, TEXT, 'the text of the events');
  t.equal(tickets, 2, 'two tickets');
  t.equal(upstream.calls.length, 1, 'one call');
});
