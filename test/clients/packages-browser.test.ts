/// <reference lib="dom" />
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import type { Browser, Page } from 'playwright-core';
import t, { type Test } from 'tap';
import { launch, noBrowser } from '../browser.ts';
import { noCluster, startCluster } from '../cluster.ts';
import { codeBlock } from '../code-blocks.ts';
import { bellaAt, deferred, serve, until } from '../helper.ts';
import { startSite } from '../site.ts';
import { type Cut, tcpProxy } from '../tcp-proxy.ts';
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

/** An answer as the page has seen it. */
interface Asked {
  readonly text: string;
  readonly requests: number;
}
type PageWindow = Window & {
  fetchEventSource(url: string, question: string, key?: string): Promise<Asked>;
  polyfill(url: string): Promise<Asked>;
  reactNative(url: string): Promise<Asked>;
  progress: string;
  stopUrl: string;
};

/** Returns the example of a page of docs/clients/, as a function that makes its `ask` for a service. */
function exampleOf(page: string): string {
  const source = codeBlock(readFileSync(`docs/clients/${page}.md`, 'utf8'), 'js', 'localhost:3000');
  const lines = source.split('\n');
  const imports = lines.filter((line) => line.startsWith('import '));
  const code = lines.filter((line) => !line.startsWith('import ')).join('\n');
  const forService = code.replace('export ', '').replace("'http://localhost:3000/", "service + '/");
  return `${imports.join('\n')}\nconst ${page.replaceAll('-', '_')} = (service) => {\n${forService}\nreturn ask;\n};`;
}

/** The pages' examples, with a count of the requests. */
const CLIENTS = () => `
import { EventSourcePolyfill } from 'event-source-polyfill';
${exampleOf('fetch-event-source')}
${exampleOf('react-native-sse')}

window.fetchEventSource = async (url, question, key) => {
  let requests = 0;
  const { fetch } = window;
  window.fetch = (request, init) => {
    if (String(request).startsWith(url)) requests += 1;
    return fetch(request, init);
  };
  const onEvent = (event, text) => {
    if (event.type === 'start') window.stopUrl = event.url;
    window.progress = text;
  };
  const text = await fetch_event_source(url)(question, { key, onEvent });
  return { text, requests };
};
window.reactNative = async (url) => ({ text: await react_native_sse(url)('q'), requests: 1 });
window.polyfill = (url) =>
  new Promise((resolve) => {
    const source = new EventSourcePolyfill(url, { lastEventIdQueryParameterName: 'lastEventId' });
    let text = '';
    source.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === 'start') text = '';
      if (event.type === 'delta') text += event.content;
      if (event.type !== 'end') return;
      source.close();
      resolve({ text, requests: 1 });
    };
  });
`;

let shared: Promise<{ browser: Browser; script: string }> | undefined;

/** Opens a page with the clients. All tests share the browser and the script. */
async function openPage(): Promise<Page> {
  shared ??= Promise.all([launch(t as unknown as Test), bundle(CLIENTS())]).then(([browser, script]) => ({
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
    return Promise.all([fetchEventSource(url, 'q'), polyfill(`${url}/ask/stream?question=q`), reactNative(url)]);
  }, url);
  for (const one of seen) t.same(one, { text: DELTAS.join(''), requests: 1 });
  t.equal(upstream.calls.length, seen.length, 'one call for each');
});

/** Starts a proxy that cuts its first response at a place, by FIN or RST. */
async function cuttingOnce(t: Test, target: string, at: Cut['at'], byReset = false): Promise<string> {
  const cut = { at, by: byReset ? 'RST' : 'FIN' } as const;
  return (await tcpProxy(t, target, { cutOf: (_, { cuts }) => (cuts === 0 ? cut : undefined) })).url;
}

const NUMBERS = 30;
const NUMBERED = numberedDeltas(NUMBERS).join('');
/** Bytes of the head of a response. */
const HEAD_BYTES = 600;

t.test(
  'fetch-event-source, polyfill, react-native-sse: a cut behind any byte loses nothing and asks once',
  { skip, timeout: 120_000 },
  async (t) => {
    const { url, upstream } = await serveBella(t, numberedAnswer(NUMBERS, 2));
    const page = await openPage();
    const body = await (await fetch(`${url}/ask/stream?question=q`)).text();
    const bytes = fc.integer({ min: 1, max: HEAD_BYTES + Buffer.byteLength(body) });
    const cuts = fc.sample(fc.tuple(bytes, fc.boolean()), { numRuns: 24, seed: SEED });
    // fetch-event-source takes an id for that of a received event as soon as it has read its line.
    const behindId = (response: string) => {
      const match = /"type":"delta".*\nid: .*\n/.exec(response);
      return match ? match.index + match[0].length : -1;
    };
    const proxies = await Promise.all([
      cuttingOnce(t, url, behindId),
      ...cuts.map(([n, byReset]) => cuttingOnce(t, url, n, byReset)),
    ]);
    const seen = await page.evaluate((urls) => {
      const { fetchEventSource, polyfill, reactNative } = window as unknown as PageWindow;
      const ask = (url: string, i: number) => {
        if (i % 4 === 2) return polyfill(`${url}/ask/stream?question=q&key=${i}`);
        return i % 4 === 3 ? reactNative(url) : fetchEventSource(url, `question ${i}`);
      };
      return Promise.all(urls.map(ask));
    }, proxies);
    for (const [i, { text: received }] of seen.entries())
      t.equal(received, NUMBERED, `${i}: cut at ${i === 0 ? 'an id' : cuts[i - 1]}`);
    t.ok(seen.filter(({ requests }) => requests > 1).length > 2, 'some were cut');
    t.equal(upstream.calls.length, 1 + proxies.length, 'one call for each question');
  },
);

/** Tells the page that its tab is hidden, or visible again. */
const setHidden = (page: Page, hidden: boolean) =>
  page.evaluate((hidden) => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);

t.test('fetch-event-source: hidden and back, reload with the key, stop', { skip }, async (t) => {
  const { url, upstream } = await serveBella(t, unfinishedAnswer('one '), { CORS_ORIGINS: '*' });
  const page = await openPage();
  const ask = (key: string) =>
    page.evaluate(
      ([url, key]) =>
        void (window as unknown as PageWindow)
          .fetchEventSource(url, 'q', key)
          .then(({ text }) => Object.assign(window, { done: text })),
      [url, key] as [string, string],
    );
  const progress = (expected: string) =>
    page.waitForFunction((expected) => (window as unknown as PageWindow).progress === expected, expected);
  await ask('a-key');
  await progress('one ');
  const call = await upstream.call(1);
  await setHidden(page, true);
  call.response.write(text('two '));
  await setHidden(page, false);
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
  'fetch-event-source: kill -9 of the replica that the page reads from',
  { skip: skip || noCluster, timeout: 120_000 },
  async (t) => {
    const { promise, resolve: release } = deferred();
    const env = { CORS_ORIGINS: '*', STREAM_FLUSH_MS: '0' };
    const cluster = await startCluster(t, numberedAnswer(NUMBERS, 2, promise), env);
    const page = await openPage();
    const reading = page.evaluate((url) => (window as unknown as PageWindow).fetchEventSource(url, 'q'), cluster.url);
    await page.waitForFunction(() => (window as unknown as PageWindow).progress?.length > 20);
    /** Returns the number of the replica that the page reads from. */
    const serving = async () => {
      let index = -1;
      await until(async () => {
        const metrics = cluster.replicas.map(async ({ url }) => (await fetch(`${url}/metrics`)).text());
        index = (await Promise.all(metrics)).findIndex((text) => /^sluice_responses_open 1$/m.test(text));
        return index >= 0;
      }, 'a replica has the response');
      return index;
    };
    const producing = await serving();
    // The gateway sends each request to the next replica.
    while ((await serving()) === producing) {
      await setHidden(page, true);
      await setHidden(page, false);
      await sleep(50);
    }
    const killed = cluster.replicas[1 - producing];
    killed?.child.kill('SIGKILL');
    await killed?.exit;
    release();
    const { text: received, requests } = await reading;
    t.equal(received, NUMBERED, 'the text is complete and has nothing twice');
    t.ok(requests > 2, 'the page has come back');
    t.equal(cluster.upstream.calls.length, 1, 'one call');
  },
);
