/// <reference lib="dom" />
import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import type { Browser, Page } from 'playwright-core';
import t, { type Test } from 'tap';
import { launch, noBrowser } from '../browser.ts';
import { noCluster, startCluster } from '../cluster.ts';
import { bellaAt, serve, until } from '../helper.ts';
import { startSite } from '../site.ts';
import {
  type Call,
  DONE,
  numberedAnswer,
  numberedDeltas,
  STOP,
  sse,
  startUpstream,
  text,
  unfinishedAnswer,
} from '../upstream.ts';
import { bundle, noClients } from './packages.ts';

/** Packages that people use in pages, in a real Chromium. The pages are of another origin than the service. */

const skip = noClients || noBrowser;
const SEED = Number(process.env.SEED ?? 20_261_127);

/** Functions of the page. Each returns the text when the answer has ended. */
interface Asked {
  readonly text: string;
  readonly requests: number;
}
interface InPage {
  fetchEventSource(url: string, question: string, key?: string): Promise<Asked>;
  polyfill(url: string): Promise<Asked>;
  reactNative(url: string, body?: string): Promise<Asked>;
}
type PageWindow = Window & InPage & { progress: string; stopUrl: string };

const CLIENTS = `
import { fetchEventSource } from '@microsoft/fetch-event-source';
import { EventSourcePolyfill } from 'event-source-polyfill';
import NativeEventSource from 'react-native-sse';

window.fetchEventSource = async (url, question, key = crypto.randomUUID()) => {
  let text = '';
  let requests = 0;
  await fetchEventSource(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'idempotency-key': key },
    body: JSON.stringify({ question, resumable: true }),
    fetch: (...request) => {
      requests += 1;
      return fetch(...request);
    },
    onmessage({ data }) {
      const event = JSON.parse(data);
      if (event.type === 'start') {
        text = '';
        window.stopUrl = event.url;
      }
      if (event.type === 'delta') text += event.content;
      if (event.type === 'error') throw new Error(event.message);
      window.progress = text;
    },
  });
  return { text, requests };
};

const read = (source) =>
  new Promise((resolve, reject) => {
    let text = '';
    const onMessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === 'start') text = '';
      if (event.type === 'delta') text += event.content;
      if (event.type === 'error') reject(new Error(event.message));
      if (event.type !== 'end') return;
      source.close();
      resolve({ text, requests: 1 });
    };
    source.addEventListener('message', onMessage);
  });
window.polyfill = (url) => read(new EventSourcePolyfill(url, { lastEventIdQueryParameterName: 'lastEventId' }));
window.reactNative = (url, body) =>
  read(
    new NativeEventSource(url, {
      pollingInterval: 500,
      ...(body && { method: 'POST', headers: { 'content-type': 'application/json' }, body }),
    }),
  );
`;

let shared: Promise<{ browser: Browser; script: string }> | undefined;

/** Opens a page with the clients. All tests share the browser and the script. */
async function openPage(): Promise<Page> {
  shared ??= Promise.all([launch(t as unknown as Test), bundle(CLIENTS)]).then(([browser, script]) => ({
    browser,
    script,
  }));
  const { browser, script } = await shared;
  const site = await startSite(t as unknown as Test, 'http://127.0.0.1:1', {
    '/': '<!doctype html><script type="module" src="/clients.js"></script>',
    '/clients.js': script,
  });
  const page = await browser.newPage();
  await page.goto(site.url);
  return page;
}

const serveBella = async (t: Test, script: Parameters<typeof startUpstream>[1], env: Record<string, string> = {}) => {
  const upstream = await startUpstream(t, script);
  const { url } = await serve(t, { env: bellaAt(upstream.url, { CORS_ORIGINS: '*', STREAM_FLUSH_MS: '0', ...env }) });
  return { url, upstream };
};

const DELTAS = ['one ', '二 ', 'three\n\n', '🚀'];
const HEARTBEAT_MS = 20;
const pausing = async ({ response }: Call) => {
  sse(response);
  for (const event of [...DELTAS.map(text), STOP, DONE]) {
    await sleep(6 * HEARTBEAT_MS);
    response.write(event);
  }
  response.end();
};

t.test('heartbeats between all events: fetch-event-source, polyfill, react-native-sse', { skip }, async (t) => {
  const { url, upstream } = await serveBella(t, pausing, { STREAM_HEARTBEAT_MS: String(HEARTBEAT_MS) });
  const page = await openPage();
  const seen = await page.evaluate(async (url) => {
    const { fetchEventSource, polyfill, reactNative } = window as unknown as PageWindow;
    return Promise.all([
      fetchEventSource(`${url}/ask/stream`, 'q'),
      polyfill(`${url}/ask/stream?question=q`),
      reactNative(`${url}/ask/stream?question=q`),
      reactNative(`${url}/ask/stream`, '{"question":"q"}'),
    ]);
  }, url);
  for (const one of seen) t.same(one, { text: DELTAS.join(''), requests: 1 });
  t.equal(upstream.calls.length, seen.length, 'one call for each');
});

/** Starts a proxy that cuts its first connection with an answer behind `n` bytes of it, by FIN or RST. */
async function cuttingProxy(t: Test, target: string, n: number, byReset: boolean): Promise<string> {
  const port = Number(new URL(target).port);
  let hasCut = false;
  const server = createServer((client) => {
    const upstream = connect(port, '127.0.0.1');
    let rest = n;
    for (const socket of [client, upstream]) {
      socket
        .on('error', () => {})
        .on('close', () => {
          client.destroy();
          upstream.destroy();
        });
    }
    let isPost = false;
    client.on('data', (bytes) => {
      isPost ||= bytes.toString('latin1').startsWith('POST');
      upstream.write(bytes);
    });
    upstream.on('data', (bytes) => {
      if (!isPost || hasCut) return void client.write(bytes);
      client.write(bytes.subarray(0, rest));
      rest -= bytes.length;
      if (rest > 0) return;
      hasCut = true;
      if (byReset) client.resetAndDestroy();
      else client.destroySoon();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const NUMBERS = 30;
const NUMBERED = numberedDeltas(NUMBERS).join('');
/** Bytes of a response: about 600 of its head, and about 100 of each event. */
const MAX_BYTES = 600 + 100 * NUMBERS;

t.test(
  'fetch-event-source: a cut behind any byte loses nothing and asks once',
  { skip, timeout: 120_000 },
  async (t) => {
    const { url, upstream } = await serveBella(t, numberedAnswer(NUMBERS, 2));
    const page = await openPage();
    const cuts = fc.sample(fc.tuple(fc.integer({ min: 1, max: MAX_BYTES }), fc.boolean()), { numRuns: 24, seed: SEED });
    const proxies = await Promise.all(cuts.map(([n, byReset]) => cuttingProxy(t, url, n, byReset)));
    const seen = await page.evaluate((urls) => {
      const { fetchEventSource } = window as unknown as PageWindow;
      return Promise.all(urls.map((url, i) => fetchEventSource(`${url}/ask/stream`, `question ${i}`)));
    }, proxies);
    for (const [i, { text: received }] of seen.entries()) t.equal(received, NUMBERED, `cut at ${cuts[i]}`);
    t.ok(seen.filter(({ requests }) => requests > 1).length > cuts.length / 2, 'most were cut');
    t.equal(upstream.calls.length, cuts.length, 'one call for each question');
  },
);

t.test('fetch-event-source: hidden and back, reload with the key, stop', { skip }, async (t) => {
  const { url, upstream } = await serveBella(t, unfinishedAnswer('one '), { CORS_ORIGINS: '*' });
  const page = await openPage();
  const ask = (key: string) =>
    page.evaluate(
      ([url, key]) =>
        void (window as unknown as PageWindow)
          .fetchEventSource(`${url}/ask/stream`, 'q', key)
          .then(({ text }) => Object.assign(window, { done: text })),
      [url, key] as [string, string],
    );
  const progress = (expected: string) =>
    page.waitForFunction((expected) => (window as unknown as PageWindow).progress === expected, expected);
  const setHidden = (hidden: boolean) =>
    page.evaluate((hidden) => {
      Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }, hidden);

  await ask('a-key');
  await progress('one ');
  const call = await upstream.call(1);
  await setHidden(true);
  call.response.write(text('two '));
  await setHidden(false);
  await progress('one two ');
  await page.reload();
  await ask('a-key');
  await progress('one two ');
  call.response.end(text('three') + STOP + DONE);
  await page.waitForFunction(() => (window as unknown as { done?: string }).done === 'one two three');
  t.equal(upstream.calls.length, 1, 'one call');

  await ask('another-key');
  const stopped = await upstream.call(2);
  await page.waitForFunction(() => (window as unknown as PageWindow).progress === 'one ');
  await page.evaluate((url) => fetch(`${url}${(window as unknown as PageWindow).stopUrl}`, { method: 'DELETE' }), url);
  await stopped.closed;
  t.pass('DELETE ends the call');
});

t.test(
  'fetch-event-source: kill -9 of the serving replica',
  { skip: skip || noCluster, timeout: 120_000 },
  async (t) => {
    let release = () => {};
    const killed = new Promise<void>((resolve) => {
      release = resolve;
    });
    const continued: number[] = [];
    const script = numberedAnswer(NUMBERS, 2, killed);
    const cluster = await startCluster(
      t,
      (call) => {
        continued.push(call.body.length);
        return script(call);
      },
      { CORS_ORIGINS: '*', STREAM_FLUSH_MS: '0' },
    );
    const page = await openPage();
    const reading = page.evaluate(
      (url) => (window as unknown as PageWindow).fetchEventSource(`${url}/ask/stream`, 'q'),
      cluster.url,
    );
    await page.waitForFunction(() => (window as unknown as PageWindow).progress?.length > 20);
    const open = await Promise.all(
      cluster.replicas.map(async ({ url }) =>
        /^sluice_responses_open 1$/m.test(await (await fetch(`${url}/metrics`)).text()),
      ),
    );
    const serving = cluster.replicas[open.indexOf(true)];
    serving?.child.kill('SIGKILL');
    await serving?.exit;
    release();
    const { text: received, requests } = await reading;
    t.equal(received, NUMBERED, 'the text is complete and has nothing twice');
    t.ok(requests > 1, 'the page has come back');
    t.ok(continued.length <= 2, 'one call, and one that continues it');
    await until(() => cluster.upstream.calls.every(({ closedAt }) => closedAt !== undefined), 'no call is left');
  },
);
