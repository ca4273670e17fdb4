import type { Page } from 'playwright-core';
import t, { type Test } from 'tap';
import { systemClock } from '../plugins/clock.ts';
import { MemoryStore } from '../plugins/streams/memory/store.ts';
import type { StreamStore } from '../plugins/streams/types.ts';
import { launch, noBrowser } from './browser.ts';
import { bellaAt, serve, until } from './helper.ts';
import { type TcpProxy, tcpProxy } from './tcp-proxy.ts';
import { type Call, DONE, STOP, sse, startUpstream, text } from './upstream.ts';

/** A real browser, a plain EventSource that never calls `close()`, and a network that cuts. */

const WORDS = Array.from({ length: 12 }, (_, i) => `${i} 你好🚀 `);
const ANSWER = WORDS.join('');
/** What stands on the page. */
interface Shown {
  seen: { text: string; answer: string; ends: number; starts: number };
  source: EventSource;
}

/** An answer that is told when to go on. */
function told() {
  const calls: Call[] = [];
  return {
    calls,
    script: (call: Call) => {
      calls.push(call);
      sse(call.response).write(text(WORDS[0] as string));
    },
    say: (from: number, to: number) => {
      const words = WORDS.slice(from, to).map(text).join('');
      calls[0]?.response.write(words);
    },
    end: () => calls[0]?.response.end(STOP + DONE),
  };
}

async function setUp(t: Test, store?: StreamStore) {
  const model = told();
  const upstream = await startUpstream(t, model.script);
  const { url } = await serve(t, { env: bellaAt(upstream.url), ...(store && { store }) });
  return { model, upstream, proxy: await tcpProxy(t, url) };
}

async function listen(page: Page, proxy: TcpProxy, path: string): Promise<void> {
  await page.goto(`${proxy.url}/livez`);
  await follow(page, path);
}

/** The whole client: `onmessage`, and nothing else. */
async function follow(page: Page, path: string): Promise<void> {
  await page.evaluate((url) => {
    const seen = { text: '', answer: '', ends: 0, starts: 0 };
    const source = new EventSource(url);
    Object.assign(globalThis, { seen, source });
    source.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === 'start') seen.starts += 1;
      if (event.type === 'delta') seen.text += event.content;
      if (event.type !== 'end') return;
      seen.answer = event.answer;
      seen.ends += 1;
    };
  }, path);
}

const seen = (page: Page) => page.evaluate(() => (globalThis as unknown as Shown).seen);

async function shows(page: Page, words: number): Promise<void> {
  const wanted = WORDS.slice(0, words).join('');
  await page.waitForFunction((text) => (globalThis as unknown as Shown).seen.text === text, wanted, {
    timeout: 20_000,
  });
}

const asks = (proxy: TcpProxy) => proxy.requests.filter((line) => line.includes('/ask/stream'));

t.test('an EventSource and nothing but onmessage', { skip: noBrowser, timeout: 90_000 }, async (t) => {
  const browser = await launch(t);
  t.jobs = 4;

  const finished = async (t: Test, page: Page, proxy: TcpProxy, requests: number) => {
    await page.waitForFunction(() => (globalThis as unknown as Shown).seen.ends === 1, undefined, {
      timeout: 20_000,
    });
    await until(() => asks(proxy).length === requests, 'one last request, which is answered 204');
    const CLOSED = 2; // From here on, a browser never reconnects.
    await page.waitForFunction((state) => (globalThis as unknown as Shown).source.readyState === state, CLOSED);
    t.equal(asks(proxy).length, requests, 'no request after the 204');
    t.same(await seen(page), { text: ANSWER, answer: ANSWER, ends: 1, starts: 1 }, 'the whole answer, once');
  };

  t.test('cut three times in the middle of the answer', async (t) => {
    const { model, upstream, proxy } = await setUp(t);
    const page = await browser.newPage();
    await listen(page, proxy, '/ask/stream?question=q');
    await shows(page, 1);
    for (const cut of [1, 2, 3]) {
      proxy.cut();
      model.say(cut, cut + 1); // while nobody listens
      await shows(page, cut + 1);
    }
    model.say(4, WORDS.length);
    model.end();
    await finished(t, page, proxy, 5);
    t.equal(upstream.calls.length, 1, 'asked once');
  });

  t.test('cut before the first id, with a key', async (t) => {
    const { model, upstream, proxy } = await setUp(t);
    const page = await browser.newPage();
    await page.goto(`${proxy.url}/livez`);
    proxy.cutBeforeResponse = true;
    await follow(page, '/ask/stream?question=q&key=6d0f3a52-1c4b-4f5e-9b43-0c8f1f6f7a10');
    await until(() => model.calls.length === 1, 'the first question');
    await until(() => asks(proxy).length >= 2, 'the browser has come back');
    proxy.cutBeforeResponse = false;
    await shows(page, 1);
    model.say(1, WORDS.length);
    model.end();
    await finished(t, page, proxy, asks(proxy).length + 1);
    t.equal(upstream.calls.length, 1, 'asked once');
  });

  t.test('a service that refuses to resume twice, then resumes', async (t) => {
    const near = new MemoryStore({
      clock: systemClock,
      highWaterMark: 16_384,
      flushMs: 10,
      ttlMs: 60_000,
      maxTotalBytes: 1e8,
      onEvicted() {},
    });
    let away = false;
    let refused = 0;
    const store: StreamStore = {
      create: (info, key) => near.create(info, key),
      openByKey: (key) => near.openByKey(key),
      openByChat: (chat) => near.openByChat(chat),
      close: () => near.close(),
      async open(id) {
        if (!away) return near.open(id);
        refused += 1;
        throw new Error('away');
      },
    };
    const { model, upstream, proxy } = await setUp(t, store);
    const page = await browser.newPage();
    await listen(page, proxy, '/ask/stream?question=q');
    await shows(page, 1);
    away = true;
    proxy.cut();
    model.say(1, 6);
    await until(() => refused >= 2, 'two resumes are refused');
    away = false;
    await shows(page, 6);
    model.say(6, WORDS.length);
    model.end();
    await finished(t, page, proxy, refused + 3);
    t.equal(upstream.calls.length, 1, 'asked once');
  });

  t.test('a reload during the answer, and the same stream in two tabs', async (t) => {
    const { model, upstream, proxy } = await setUp(t);
    const path = '/ask/stream?question=q&key=3f9f1c1e-7b7c-4b64-9a39-3f8f8d6f1c55';
    const [one, two] = [await browser.newPage(), await browser.newPage()];
    await listen(one, proxy, path);
    await shows(one, 1);
    model.say(1, 4);
    await shows(one, 4);
    await listen(one, proxy, path); // the page is loaded anew
    await shows(one, 4);
    await listen(two, proxy, path);
    await shows(two, 4);
    model.say(4, WORDS.length);
    model.end();
    for (const page of [one, two]) {
      await page.waitForFunction(() => (globalThis as unknown as Shown).seen.ends === 1);
      t.same(await seen(page), { text: ANSWER, answer: ANSWER, ends: 1, starts: 1 });
    }
    t.equal(upstream.calls.length, 1, 'asked once');
  });
});
