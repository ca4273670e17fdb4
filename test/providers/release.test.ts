import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { createOpenAICompatible } from '../../providers/openai-compatible.ts';
import type { Provider, StreamPart } from '../../providers/types.ts';
import { chunk, DONE, type Script, STOP, sse, startUpstream, text, type Upstream } from '../upstream.ts';
import { collect } from './collect.ts';
import { OPTIONS } from './options.ts';

/** Tests what a call of a provider leaves behind: its connection and its API key. */

const REQUEST = { model: 'm', messages: [{ role: 'user', content: 'q' }] } as const;

async function start(
  t: Test,
  script: Script,
  keys: string[] = [],
): Promise<{ upstream: Upstream; provider: Provider }> {
  const upstream = await startUpstream(t, script);
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: upstream.url, connections: 1, apiKeys: keys });
  t.teardown(() => provider.close());
  return { upstream, provider };
}

/** Reads until a finish part, and then ends the generator as the LLM client does. */
async function readToFinish(parts: AsyncGenerator<StreamPart, void, undefined>): Promise<string[]> {
  const types: string[] = [];
  for (;;) {
    const { value, done } = await parts.next();
    if (done) return types;
    types.push(value.type);
    if (value.type !== 'finish') continue;
    await parts.return();
    return types;
  }
}

t.test('a body that ends behind [DONE] gives its connection back', async (t) => {
  const { upstream, provider } = await start(t, async ({ response }) => {
    sse(response).write(text('x') + STOP + DONE);
    await new Promise((resolve) => setImmediate(resolve));
    response.end(': bye\n\n');
  });
  for (let i = 1; i <= 3; i++) {
    t.same(await readToFinish(provider.stream(REQUEST, new AbortController().signal)), ['text', 'finish']);
    await (await upstream.call(i)).closed;
  }
  t.equal(upstream.sockets(), 1, 'three answers over one connection');
});

t.test('each other end of a call closes the connection', async (t) => {
  const { upstream, provider } = await start(t, ({ response, body }) => {
    sse(response).write(text('x') + (body.includes('malformed') ? 'data: {]\n\n' : ''));
  });
  const malformed = { model: 'm', messages: [{ role: 'user', content: 'malformed' }] } as const;
  const { error } = await collect(provider.stream(malformed, new AbortController().signal));
  t.match(error, { reason: 'bad_json' });
  await (await upstream.call(1)).closed;

  const controller = new AbortController();
  const aborted = provider.stream(REQUEST, controller.signal);
  t.match(await aborted.next(), { value: { text: 'x' } });
  const next = aborted.next();
  controller.abort();
  await t.rejects(next, { name: 'AbortError' }, 'an abort');
  await (await upstream.call(2)).closed;

  const returned = provider.stream(REQUEST, new AbortController().signal);
  await returned.next();
  await returned.return();
  await (await upstream.call(3)).closed;
  t.pass('a reader that stops early');
});

t.test('each end of a call ends the use of its API key', async (t) => {
  let answer: Script = () => {};
  const upstream = await startUpstream(t, (call) => answer(call));
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: upstream.url, apiKeys: ['one', 'two'] });
  t.teardown(() => provider.close());
  answer = ({ response }) => void sse(response).write(text('x'));
  const held = provider.stream(REQUEST, new AbortController().signal);
  await held.next();
  const keyOf = async (n: number) => (await upstream.call(n)).request.headers.authorization;
  t.equal(await keyOf(1), 'Bearer one');

  const complete: Script = ({ response }) => void sse(response).end(text('x') + STOP + DONE);
  const ends: [string, Script][] = [
    ['an answer', complete],
    ['an incomplete answer', ({ response }) => void sse(response).end(text('x'))],
    ['an error status', ({ response }) => void response.writeHead(500).end()],
    ['another content type', ({ response }) => void response.writeHead(200, { 'content-type': 'text/html' }).end('<')],
    ['a closed connection', ({ response }) => void response.destroy()],
  ];
  let calls = 1;
  for (const [name, script] of ends) {
    for (answer of [script, complete]) {
      await collect(provider.stream(REQUEST, new AbortController().signal));
      calls += 1;
      t.equal(await keyOf(calls), 'Bearer two', `${name}: the key without a running call is used again`);
    }
  }
  await held.return();
  await collect(provider.stream(REQUEST, new AbortController().signal));
  t.equal(await keyOf(calls + 1), 'Bearer one', 'a reader that stops early');
});

t.test('a key is not used after a 401, and an accepted call resets the length of its cooldown', async (t) => {
  let now = 0;
  let status = 401;
  const upstream = await startUpstream(t, ({ response }) => {
    if (status === 200) sse(response).end(text('x') + STOP + DONE);
    else response.writeHead(status).end();
  });
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: upstream.url, apiKeys: ['one'], now: () => now });
  t.teardown(() => provider.close());
  const ask = () => collect(provider.stream(REQUEST, new AbortController().signal));
  for (let i = 0; i < 2; i++) {
    status = 401;
    t.match((await ask()).error, { reason: 'credentials', upstreamStatus: 401 });
    t.match(provider.cooldown?.('m'), { code: 'upstream_rejected', reason: 'credentials' });
    const { calls } = upstream;
    const before = calls.length;
    t.match((await ask()).error, { reason: 'credentials' });
    t.equal(calls.length, before, 'no call is made during the cooldown');
    now += 5_000;
    t.equal(provider.cooldown?.('m'), undefined, 'the cooldown takes five seconds');
    status = 200;
    t.equal((await ask()).text, 'x');
  }
});

t.test('parts decoded before an error are delivered before it', async (t) => {
  const { provider } = await start(t, ({ response }) => {
    sse(response).end(`${text('one ')}${text('two')}data: {]\n\n${text('lost')}`);
  });
  const parts = provider.stream(REQUEST, new AbortController().signal);
  t.same(await parts.next(), { value: { type: 'text', text: 'one two' }, done: false });
  await t.rejects(parts.next(), { name: 'ProviderError', message: 'The provider sent an invalid response.' });
  t.same(await parts.next(), { value: undefined, done: true });
});

t.test('text that arrives later is delivered without waiting for the end', async (t) => {
  const { upstream, provider } = await start(t, ({ response }) => {
    sse(response).write(text('one'));
  });
  const parts = provider.stream(REQUEST, new AbortController().signal);
  t.match(await parts.next(), { value: { text: 'one' } });
  const { response } = await upstream.call(1);
  const second = parts.next();
  response.write(text('two'));
  t.match(await second, { value: { text: 'two' } });
  const end = parts.next();
  response.write(STOP);
  t.match(await end, { value: { type: 'finishing' } });
  response.end();
  t.match(await parts.next(), { value: { type: 'finish', reason: 'stop' } });
  t.same(await parts.next(), { value: undefined, done: true });
});

t.test('a complete answer whose body stays open ends, and its connection is closed', async (t) => {
  const { upstream, provider } = await start(t, ({ response }) => void sse(response).write(text('x') + STOP));
  const types = await readToFinish(provider.stream(REQUEST, new AbortController().signal));
  t.same(types, ['text', 'finishing', 'finish']);
  await (await upstream.call(1)).closed;

  const controller = new AbortController();
  const aborted = provider.stream(REQUEST, controller.signal);
  await aborted.next();
  t.match(await aborted.next(), { value: { type: 'finishing' } });
  const next = aborted.next();
  controller.abort();
  await t.rejects(next, { name: 'AbortError' }, 'an abort while the end is awaited');
  await (await upstream.call(2)).closed;

  const returned = provider.stream(REQUEST, new AbortController().signal);
  await returned.next();
  await returned.next();
  await returned.return();
  await (await upstream.call(3)).closed;
  t.pass('a reader that stops while the end is awaited');
});

t.test('usage that arrives behind the finish reason is read, however slow the reader is', async (t) => {
  const usage = chunk({}, null).replace(/"choices":.*$/m, '"choices":[],"usage":{"prompt_tokens":3}}');
  const { upstream, provider } = await start(t, ({ response }) => void sse(response).write(text('x') + STOP));
  const parts = provider.stream(REQUEST, new AbortController().signal);
  t.match(await parts.next(), { value: { text: 'x' } });
  const { response } = await upstream.call(1);
  response.end(usage + DONE);
  await sleep(1_100); // Longer than the end of a complete answer is awaited.
  const types: string[] = [];
  for await (const part of parts) {
    types.push(part.type);
    if (part.type === 'finish') t.match(part.usage, { inputTokens: 3 });
  }
  t.equal(types.at(-1), 'finish');
});

t.test('keys are replaced while calls run: these keep theirs, and the next calls use the new ones', async (t) => {
  const { upstream, provider } = await start(t, async ({ request, response }) => {
    if (request.headers.authorization === 'Bearer old') sse(response).write(text('x'));
    else sse(response).end(text('x') + STOP + DONE);
  });
  const signal = new AbortController().signal;
  const sent = async (n: number) => (await upstream.call(n)).request.headers.authorization;
  await collect(provider.stream(REQUEST, signal));
  t.equal(await sent(1), undefined, 'no key is configured');
  provider.setApiKeys?.(['old']);
  const running = collect(provider.stream(REQUEST, signal));
  t.equal(await sent(2), 'Bearer old');
  const call = await upstream.call(2);

  provider.setApiKeys?.(['new']);
  const next = createOpenAICompatible({ ...OPTIONS, baseUrl: upstream.url, apiKeys: ['old'] });
  t.teardown(() => next.close());
  next.setApiKeys?.(['new']);
  t.match(await collect(next.stream(REQUEST, signal)), { text: 'x', error: undefined });
  t.equal(await sent(3), 'Bearer new');
  call.response.end(STOP + DONE);
  t.match(await running, { text: 'x', error: undefined }, 'the running call ends undisturbed');
  await collect(provider.stream(REQUEST, signal));
  t.equal(await sent(4), 'Bearer new');
  provider.setApiKeys?.([]);
  await collect(provider.stream(REQUEST, signal));
  t.equal(await sent(5), undefined);
});

/** Answers of a provider that does not take a key. */
const KEY_FAULTS: [name: string, script: Script, reason: string][] = [
  ['401', ({ response }) => void response.writeHead(401).end(), 'credentials'],
  ['402', ({ response }) => void response.writeHead(402).end(), 'billing'],
  ['429', ({ response }) => void response.writeHead(429).end(), 'http_429'],
  ['429 with Retry-After', ({ response }) => void response.writeHead(429, { 'retry-after': '20' }).end(), 'http_429'],
  [
    'a rate limit inside a 200',
    ({ response }) =>
      void sse(response).end(
        `${chunk({ role: 'assistant' })}data: {"error":{"code":"rate_limit_exceeded","message":"x"}}\n\n`,
      ),
    'rate_limited',
  ],
];

t.test(
  'a key that is refused or at its limit is followed by the next inside the call, all of them if need be',
  async (t) => {
    for (const [name, refuse, reason] of KEY_FAULTS) {
      let good = 'Bearer four';
      const upstream = await startUpstream(t, (call) => {
        if (call.request.headers.authorization !== good) return refuse(call);
        sse(call.response).end(text('x') + STOP + DONE);
      });
      const apiKeys = ['one', 'two', 'three', 'four'];
      const sent = () => upstream.calls.splice(0).map(({ request }) => request.headers.authorization?.slice(7));
      const create = () => {
        const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: upstream.url, apiKeys, now: () => 0 });
        t.teardown(() => provider.close());
        return () => collect(provider.stream(REQUEST, new AbortController().signal));
      };
      const ask = create();
      t.match(await ask(), { text: 'x', error: undefined }, `${name}: answered`);
      t.same(sent(), apiKeys, `${name}: each key once, in order`);
      t.match(await ask(), { text: 'x', error: undefined });
      t.same(sent(), ['four'], `${name}: the others are in cooldown`);

      good = 'none';
      const { error } = await create()();
      t.match(error, { reason }, `${name}: without a good key, the last error`);
      t.same(sent(), apiKeys, `${name}: each key once`);
    }
  },
);

t.test('nothing else makes a call go on with another key', async (t) => {
  const others: [string, Script][] = [
    ['500', ({ response }) => void response.writeHead(500).end()],
    ['400', ({ response }) => void response.writeHead(400).end('{}')],
    ['403', ({ response }) => void response.writeHead(403).end()],
    ['an incomplete answer', ({ response }) => void sse(response).end()],
    ['a closed connection', ({ response }) => void response.destroy()],
    [
      'a rate limit behind the first content',
      ({ response }) =>
        void sse(response).end(`${text('x')}data: {"error":{"code":"rate_limit_exceeded","message":"x"}}\n\n`),
    ],
  ];
  for (const [name, script] of others) {
    const upstream = await startUpstream(t, script);
    const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: upstream.url, apiKeys: ['one', 'two'] });
    t.teardown(() => provider.close());
    t.match(await collect(provider.stream(REQUEST, new AbortController().signal)), {
      error: { name: 'ProviderError' },
    });
    t.equal(upstream.calls.length, 1, name);
  }
});

t.test('an abort between two keys ends the call, and no key is left in use', async (t) => {
  const controller = new AbortController();
  const upstream = await startUpstream(t, ({ response }) => {
    if (upstream.calls.length === 1) response.writeHead(429).end();
    else controller.abort();
  });
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: upstream.url, apiKeys: ['one', 'two', 'three'] });
  t.teardown(() => provider.close());
  t.match((await collect(provider.stream(REQUEST, controller.signal))).error, { name: 'AbortError' });
  t.equal(upstream.calls.length, 2);
  await (await upstream.call(2)).closed;
});
