import type { Page } from 'playwright-core';
import t, { type Test } from 'tap';
import { systemClock } from '../plugins/clock.ts';
import { MemoryStore } from '../plugins/streams/memory/store.ts';
import type { StreamStore } from '../plugins/streams/types.ts';
import { launch, noBrowser } from './browser.ts';
import { bellaAt, serve, until } from './helper.ts';
import { type Cut, type TcpProxy, tcpProxy } from './tcp-proxy.ts';
import { type Call, DONE, STOP, sse, startUpstream, text } from './upstream.ts';

/** The EventSource of a real browser, which never calls `close()`, behind a network that cuts connections. */

const WORDS = Array.from({ length: 12 }, (_, i) => `${i} 你好🚀 `);
const ANSWER = WORDS.join('');
/** Variables of the page. */
interface PageGlobals {
  received: { text: string; answer: string; ends: number; starts: number };
  source: EventSource;
}

/** Returns a script that sends the first word, and functions that continue the answer of the first call. */
function steppedAnswer() {
  const calls: Call[] = [];
  return {
    calls,
    script: (call: Call) => {
      calls.push(call);
      sse(call.response).write(text(WORDS[0] as string));
    },
    write: (from: number, to: number) => {
      const words = WORDS.slice(from, to).map(text).join('');
      calls[0]?.response.write(words);
    },
    end: () => calls[0]?.response.end(STOP + DONE),
  };
}

async function setUp(t: Test, store?: StreamStore, cut?: Cut) {
  const model = steppedAnswer();
  const upstream = await startUpstream(t, model.script);
  const { url } = await serve(t, { env: bellaAt(upstream.url), ...(store && { store }) });
  return { model, upstream, proxy: await tcpProxy(t, url, { cutOf: () => cut }) };
}

/** Opens a page of the service and reads `path` with an EventSource. */
async function openAndRead(page: Page, proxy: TcpProxy, path: string): Promise<void> {
  await page.goto(`${proxy.url}/livez`);
  await read(page, path);
}

/** Reads `path` with an EventSource that has only an `onmessage` handler. */
async function read(page: Page, path: string): Promise<void> {
  await page.evaluate((url) => {
    const received = { text: '', answer: '', ends: 0, starts: 0 };
    const source = new EventSource(url);
    Object.assign(globalThis, { received, source });
    source.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === 'start') received.starts += 1;
      if (event.type === 'delta') received.text += event.content;
      if (event.type !== 'end') return;
      received.answer = event.answer;
      received.ends += 1;
    };
  }, path);
}

const receivedBy = (page: Page) => page.evaluate(() => (globalThis as unknown as PageGlobals).received);

/** Waits until the page has received exactly the first words. */
async function waitForWords(page: Page, words: number): Promise<void> {
  const expected = WORDS.slice(0, words).join('');
  await page.waitForFunction((text) => (globalThis as unknown as PageGlobals).received.text === text, expected, {
    timeout: 20_000,
  });
}

const questions = (proxy: TcpProxy) => proxy.requests.filter((line) => line.includes('/ask/stream'));

t.test('an EventSource with only an onmessage handler', { skip: noBrowser, timeout: 90_000 }, async (t) => {
  const browser = await launch(t);
  t.jobs = 4;

  /** Asserts that the page gets the complete answer once, and stops reconnecting after `requests` requests. */
  const assertFinished = async (t: Test, page: Page, proxy: TcpProxy, requests: number) => {
    await page.waitForFunction(() => (globalThis as unknown as PageGlobals).received.ends === 1, undefined, {
      timeout: 20_000,
    });
    await until(() => questions(proxy).length === requests, 'the browser has sent its last request, which gets 204');
    const CLOSED = 2; // In this state, an EventSource does not reconnect.
    await page.waitForFunction((state) => (globalThis as unknown as PageGlobals).source.readyState === state, CLOSED);
    t.equal(questions(proxy).length, requests, 'no request after the 204');
    t.same(await receivedBy(page), { text: ANSWER, answer: ANSWER, ends: 1, starts: 1 }, 'the complete answer, once');
  };

  t.test('three cuts during the answer: the browser resumes and gets every word once', async (t) => {
    const { model, upstream, proxy } = await setUp(t);
    const page = await browser.newPage();
    await openAndRead(page, proxy, '/ask/stream?question=q');
    await waitForWords(page, 1);
    for (const cut of [1, 2, 3]) {
      proxy.cut();
      model.write(cut, cut + 1); // While no reader is connected.
      await waitForWords(page, cut + 1);
    }
    model.write(4, WORDS.length);
    model.end();
    await assertFinished(t, page, proxy, 5);
    t.equal(upstream.calls.length, 1, 'the upstream is called once');
  });

  t.test('a cut before the first event id: a key lets the browser find its stream', async (t) => {
    let isCutting = false;
    const { model, upstream, proxy } = await setUp(t, undefined, { at: () => (isCutting ? 0 : -1) });
    const page = await browser.newPage();
    await page.goto(`${proxy.url}/livez`);
    isCutting = true;
    await read(page, '/ask/stream?question=q&key=6d0f3a52-1c4b-4f5e-9b43-0c8f1f6f7a10');
    await until(() => model.calls.length === 1, 'the upstream is called');
    await until(() => questions(proxy).length >= 2, 'the browser has reconnected');
    isCutting = false;
    await waitForWords(page, 1);
    model.write(1, WORDS.length);
    model.end();
    await assertFinished(t, page, proxy, questions(proxy).length + 1);
    t.equal(upstream.calls.length, 1, 'the upstream is called once');
  });

  t.test('two resumes fail because the store is unavailable: the browser resumes at the third attempt', async (t) => {
    const memoryStore = new MemoryStore({
      clock: systemClock,
      highWaterMark: 16_384,
      flushMs: 10,
      ttlMs: 60_000,
      maxTotalBytes: 1e8,
      onEvicted() {},
    });
    let isUnavailable = false;
    let failedResumes = 0;
    const store: StreamStore = {
      create: (info, key) => memoryStore.create(info, key),
      openByKey: (key) => memoryStore.openByKey(key),
      openByChat: (chat) => memoryStore.openByChat(chat),
      close: () => memoryStore.close(),
      async open(id) {
        if (!isUnavailable) return memoryStore.open(id);
        failedResumes += 1;
        throw new Error('unavailable');
      },
    };
    const { model, upstream, proxy } = await setUp(t, store);
    const page = await browser.newPage();
    await openAndRead(page, proxy, '/ask/stream?question=q');
    await waitForWords(page, 1);
    isUnavailable = true;
    proxy.cut();
    model.write(1, 6);
    await until(() => failedResumes >= 2, 'two resumes have failed');
    isUnavailable = false;
    await waitForWords(page, 6);
    model.write(6, WORDS.length);
    model.end();
    await assertFinished(t, page, proxy, failedResumes + 3);
    t.equal(upstream.calls.length, 1, 'the upstream is called once');
  });

  t.test('a reload and a second tab with the same key get the complete answer', async (t) => {
    const { model, upstream, proxy } = await setUp(t);
    const path = '/ask/stream?question=q&key=3f9f1c1e-7b7c-4b64-9a39-3f8f8d6f1c55';
    const [firstTab, secondTab] = [await browser.newPage(), await browser.newPage()];
    await openAndRead(firstTab, proxy, path);
    await waitForWords(firstTab, 1);
    model.write(1, 4);
    await waitForWords(firstTab, 4);
    await openAndRead(firstTab, proxy, path); // Reloads the page.
    await waitForWords(firstTab, 4);
    await openAndRead(secondTab, proxy, path);
    await waitForWords(secondTab, 4);
    model.write(4, WORDS.length);
    model.end();
    for (const page of [firstTab, secondTab]) {
      await page.waitForFunction(() => (globalThis as unknown as PageGlobals).received.ends === 1);
      t.same(await receivedBy(page), { text: ANSWER, answer: ANSWER, ends: 1, starts: 1 }, 'the complete answer, once');
    }
    t.equal(upstream.calls.length, 1, 'the upstream is called once');
  });
});
