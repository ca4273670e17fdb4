import t, { type Test } from 'tap';
import { createOpenAICompatible } from '../../providers/openai-compatible.ts';
import type { Provider, StreamPart } from '../../providers/types.ts';
import { DONE, type Script, STOP, sse, startUpstream, text, type Upstream } from '../upstream.ts';
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
  const { upstream, provider } = await start(t, (call) => answer(call), ['one', 'two']);
  const keyOf = async (n: number) => (await upstream.call(n)).request.headers.authorization;
  const ends: [string, Script][] = [
    ['an answer', ({ response }) => void sse(response).end(text('x') + STOP + DONE)],
    ['an incomplete answer', ({ response }) => void sse(response).end(text('x'))],
    ['an error status', ({ response }) => void response.writeHead(500).end()],
    [
      'another content type',
      ({ response }) => void response.writeHead(200, { 'content-type': 'text/html' }).end('<html>'),
    ],
    ['a closed connection', ({ response }) => void response.destroy()],
  ];
  let calls = 0;
  for (const [name, script] of ends) {
    answer = script;
    const keys = [];
    // Keys whose use has ended are used in turn; a key that is still in use is left out.
    for (let i = 0; i < 4; i++) {
      await collect(provider.stream(REQUEST, new AbortController().signal));
      calls += 1;
      keys.push(await keyOf(calls));
    }
    t.same(keys, ['Bearer one', 'Bearer two', 'Bearer one', 'Bearer two'], name);
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
  response.end(STOP);
  t.match(await end, { value: { type: 'finish', reason: 'stop' } });
  t.same(await parts.next(), { value: undefined, done: true });
});
