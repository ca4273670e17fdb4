import { request as httpRequest } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { duplicateKey, isTooComplex, textLength } from '../plugins/http/json-keys.ts';
import { BodyClaim, MemoryBudget, sharesOf } from '../plugins/limits/memory-budget.ts';
import { bearer, bellaAt, serve, sha256, until, writeConfig } from './helper.ts';
import { metricValue } from './metric-value.ts';
import { open } from './sse-client.ts';
import { timeRatio } from './time-ratio.ts';
import { DONE, STOP, silent, sse, startUpstream, text, unfinishedAnswer } from './upstream.ts';

/** The bounds of memory: bodies, prompts, readers, and the size of JSON. */

const KEYS = ['a', 'b', 'c'].map((name) => `  - { name: ${name}, sha256: "${sha256(name)}" }`).join('\n');

/** Posts a question of a number of characters. */
function ask(url: string, key: string, characters: number, signal?: AbortSignal): Promise<Response> {
  return fetch(`${url}/v1/chat/completions`, {
    ...(signal && { signal }),
    method: 'POST',
    headers: { 'content-type': 'application/json', ...bearer(key) },
    body: JSON.stringify({ stream: true, messages: [{ role: 'user', content: 'x'.repeat(characters) }] }),
  });
}

t.test('prompts in progress are bounded, for each owner and over all', async (t) => {
  const upstream = await startUpstream(t, silent);
  const file = writeConfig(t, `limits: { promptBytes: 300000, promptBytesPerOwner: 150000 }\nkeys:\n${KEYS}\n`);
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, { CONFIG_FILE: file }) });
  const first = ask(url, 'a', 100_000);
  await upstream.call(1);
  const overShare = await ask(url, 'a', 100_000);
  t.equal(overShare.status, 429, 'the second large question of an owner');
  t.match(await overShare.json(), { error: { code: 'rate_limited' } });
  t.equal(overShare.headers.get('retry-after'), '2');
  const others = [ask(url, 'b', 100_000)];
  await upstream.call(2);
  const full = await ask(url, 'c', 120_000);
  t.equal(full.status, 503, 'a question that does not fit into what is left');
  t.match(await full.json(), { error: { code: 'overloaded' } });
  t.equal(await metricValue(app, 'sluice_refusals_total', { reason: 'prompts' }), 1);
  others.push(ask(url, 'c', 50_000));
  await upstream.call(3);

  for (const { response } of upstream.calls) sse(response).end(text('ok') + STOP + DONE);
  for (const response of await Promise.all([first, ...others])) await response.text();
  const again = ask(url, 'a', 140_000);
  await upstream.call(4);
  t.pass('the memory of an ended answer is free again');
  sse(upstream.calls[3]?.response as never).write(text('ok'));
  await again;
  const next = ask(url, 'a', 140_000);
  await upstream.call(5);
  t.pass('and so is that of an answer that has begun');
  upstream.calls[3]?.response.end(STOP + DONE);
  sse(upstream.calls[4]?.response as never).end(text('ok') + STOP + DONE);
  for (const response of [await again, await next]) await response.text();
});

/** Returns true if a question of 100,000 characters is refused for its owner. An accepted one is left again. */
async function isRefused(url: string, key: string): Promise<boolean> {
  try {
    return (await ask(url, key, 100_000, AbortSignal.timeout(200))).status === 429;
  } catch {
    return false;
  }
}

t.test('a body counts before it is read: by its length, or as it grows', async (t) => {
  const upstream = await startUpstream(t, silent);
  const file = writeConfig(t, `limits: { promptBytes: 300000, promptBytesPerOwner: 200000 }\nkeys:\n${KEYS}\n`);
  const { url } = await serve(t, { env: bellaAt(upstream.url, { CONFIG_FILE: file }) });
  const post = (key: string, headers: Record<string, string>) => {
    const request = httpRequest(`${url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...bearer(key), ...headers },
    });
    const status = new Promise<number>((resolve) => {
      request.on('response', (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      });
      request.on('error', () => resolve(0));
    });
    return { request, status };
  };
  const announced = post('a', { 'content-length': '180000' });
  announced.request.write('{');
  await until(() => isRefused(url, 'a'), 'the announced length counts');
  announced.request.destroy();
  await until(async () => {
    const probe = post('a', { 'content-length': '190000' });
    probe.request.write('{');
    const refused = await Promise.race([probe.status, new Promise((resolve) => setTimeout(resolve, 50))]);
    probe.request.destroy();
    return refused === undefined;
  }, 'a cut body is free again');

  const growing = post('b', { 'transfer-encoding': 'chunked' });
  growing.request.write(`{"a":"${'x'.repeat(150_000)}`);
  await sleep(50); // Lets the body arrive, so that the first question does not take its place.
  await until(() => isRefused(url, 'b'), 'a body without a length counts as it grows');
  growing.request.write('x'.repeat(100_000));
  t.equal(await growing.status, 429, 'and is refused when it is too large');
  growing.request.destroy();
});

t.test('readers are bounded for each stream, for each owner and over all', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('hello'));
  const cases = [
    ['readersPerStream: 2', 503],
    ['readersPerOwner: 2', 429],
    ['outputBytes: 65536', 503],
  ] as const;
  for (const [bound, status] of cases) {
    const file = writeConfig(t, `limits: { ${bound} }\nkeys:\n${KEYS}\n`);
    const { app, url } = await serve(t, { env: bellaAt(upstream.url, { CONFIG_FILE: file }) });
    const started = await fetch(`${url}/streams`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...bearer('a') },
      body: JSON.stringify({ question: 'q' }),
    });
    const { url: path } = (await started.json()) as { url: string };
    const readers = [await open(url + path), await open(url + path)];
    const refused = await fetch(url + path);
    t.equal(refused.status, status, `a third reader with ${bound}`);
    t.ok(refused.headers.get('retry-after'));
    await refused.text();
    const browser = await fetch(url + path, { headers: { accept: 'text/event-stream' } });
    t.equal(browser.status, 200, 'an EventSource is asked to reconnect');
    t.notMatch(await browser.text(), /"type"/, 'it gets no event');
    readers[0]?.cut();
    await until(() => app.responses.open === 1, 'a reader has left');
    const next = await open(url + path);
    await until(() => app.responses.open === 2, 'its place is free');
    next.cut();
    readers[1]?.cut();
  }
});

t.test('a budget is even after any order of claims', async (t) => {
  const budget = new MemoryBudget(100);
  const shares = (owner: string) => sharesOf({ owner }, { total: 100, perOwner: 60 });
  t.equal(budget.take(shares('a'), 1_000), 'taken', 'an owner that holds nothing may take any amount');
  t.equal(budget.take(shares('b'), 1), 'total');
  budget.give(shares('a'), 1_000);
  const claim = new BodyClaim(budget, shares('a'));
  t.equal(claim.grow(40), 'taken');
  t.equal(claim.grow(21), 'owner');
  t.equal(new BodyClaim(budget, []).grow(61), 'total');
  const [first, second] = [claim.hold(), claim.hold()];
  first();
  first();
  t.equal(budget.used, 40, 'one holder is left');
  second();
  t.equal(budget.used, 0);
});

t.test('a visitor may hold a quarter of what its key may, and all visitors together what the key may', async (t) => {
  const budget = new MemoryBudget(1_000);
  const bounds = { total: 1_000, perOwner: 100 };
  const shares = (visitor: string) => sharesOf({ owner: `key:a#${visitor}`, holder: { owner: 'key:a' } }, bounds);
  const key = sharesOf({ owner: 'key:a' }, bounds);
  t.equal(budget.take(shares('x'), 25), 'taken');
  t.equal(budget.take(shares('x'), 1), 'owner', 'its quarter is in use');
  t.equal(budget.used, 25, 'what is refused is not held');
  for (const visitor of ['y', 'z']) t.equal(budget.take(shares(visitor), 25), 'taken');
  t.equal(budget.take(key, 25), 'taken', 'the key itself has its whole share');
  t.equal(budget.take(shares('w'), 1), 'owner', 'the share of the key is in use');
  budget.give(shares('x'), 25);
  t.equal(budget.take(shares('w'), 25), 'taken', 'what a visitor gives back is free for others of its key');
  t.equal(budget.take(shares('x'), 1), 'owner');
  for (const owner of [key, shares('w'), shares('y'), shares('z')]) budget.give(owner, 25);
  t.equal(budget.used, 0);
  t.equal(budget.take(shares('x'), 1_000), 'taken', 'one that holds nothing may take any amount');
});

t.test('JSON is bounded in its members and in its text', async (t) => {
  const members = (count: number) => `{${'"a":0,'.repeat(count - 1)}"a":0}`;
  t.equal(isTooComplex(members(10_001)), true, 'members of one object');
  t.equal(isTooComplex(members(10_000)), false);
  t.equal(isTooComplex(`[${members(9_000)},{"x":[${members(9_000)}],"y":${members(9_000)}}]`), false, 'of several');
  t.equal(isTooComplex(`{"x":[${members(9_999)}],${members(9_999).slice(1)}`), false, 'inner members do not count');
  t.equal(isTooComplex(`{"x":[${members(9_999)}],${members(10_000).slice(1)}`), true, 'outer ones do');
  t.equal(isTooComplex(`[${Array(6).fill(members(9_000)).join()}]`), true, 'members of all objects');
  t.equal(isTooComplex(`[${'0,'.repeat(100_001)}0]`), true, 'items');
  t.equal(isTooComplex(`[${'{},'.repeat(50_000)}{}]`), true, 'objects');
  t.equal(isTooComplex(`["${':,'.repeat(1_000_000)}"]`), false, 'separators inside of a text do not count');
  t.equal(isTooComplex(`[${'0,'.repeat(99_000)}0]`), false);
  const image = `data:image/png;base64,${'A'.repeat(5_000)}`;
  t.equal(textLength({ a: ['xy', { b: 'z' }, image, 1, null] }), 3, 'images do not count');
  t.equal(textLength(`data: ${'A'.repeat(5_000)}`), 5_006, 'a text that only begins like one does');
  const { url } = await serve(t, {
    env: { CONFIG_FILE: writeConfig(t, 'limits: { textChars: 2000 }'), ...bellaAt('http://127.0.0.1:1') },
  });
  const response = await fetch(`${url}/streams`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ question: 'x'.repeat(3_000) }),
  });
  t.equal(response.status, 413);
  t.match(await response.json(), { error: { code: 'invalid_request', message: /at most 2000 characters/ } });
});

t.test('the walks over JSON are linear', async (t) => {
  const walks = [duplicateKey, isTooComplex, (json: string) => textLength(JSON.parse(json))];
  const texts = [
    (n: number) => `["${'\\\\'.repeat(n / 2)}"]`,
    (n: number) => `["${'\\"'.repeat(n / 2)}"]`,
    (n: number) => `{"a"${' '.repeat(n)}:"${'x'.repeat(n)}"}`,
    (n: number) =>
      `[${Array(Math.floor(n / 50))
        .fill(`"${'x'.repeat(46)}"`)
        .join()}]`,
  ];
  for (const walk of walks) {
    for (const [i, make] of texts.entries()) {
      const ratio = timeRatio((json) => void walk(json), make(2_000_000), make(8_000_000));
      t.ok(ratio <= 6, `text ${i}: four times the length takes ${ratio.toFixed(1)} times as long`);
    }
  }
});
