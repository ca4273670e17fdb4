/// <reference lib="dom" />
import { readFileSync } from 'node:fs';
import type { Browser, Page } from 'playwright-core';
import t from 'tap';
import { launch, noBrowser } from './browser.ts';
import { codeBlock } from './code-blocks.ts';
import { bearer, bellaAt, serve, sha256, until, writeConfig } from './helper.ts';
import { compileReact, REACT_PAGE } from './react-page.ts';
import { type Site, startSite } from './site.ts';
import { completeAnswer, DONE, STOP, sse, startUpstream, text } from './upstream.ts';

/** Runs the page and the React component of the README in a browser: none of what browsers do asks twice. */

const README = readFileSync('README.md', 'utf8');
const PAGE = `<!doctype html><meta charset="utf-8">${codeBlock(README, 'html', 'EventSource')}`;

/** Sends each question twice, without `Last-Event-ID`: service workers drop it, and some repeat what was cut. */
const SERVICE_WORKER = `
addEventListener('install', () => skipWaiting());
addEventListener('activate', (event) => event.waitUntil(clients.claim()));
addEventListener('fetch', (event) => {
  if (!event.request.url.includes('/ask/stream')) return;
  const ask = () => fetch(event.request.url, { headers: { accept: 'text/event-stream' } });
  event.respondWith(ask().then((response) => response.body.cancel()).then(ask));
});`;
const WORKER_FILES = {
  '/start': `<!doctype html><script>navigator.serviceWorker.register('/worker.js')</script>`,
  '/worker.js': SERVICE_WORKER,
};

/** Opens a page that the service worker controls. */
async function openWithWorker(browser: Browser, site: Site): Promise<Page> {
  const page = await browser.newPage();
  await page.goto(`${site.url}/start`);
  await page.evaluate(async () => void (await navigator.serviceWorker.ready));
  await page.goto(`${site.url}/page`);
  return page;
}

const waitForText = (page: Page, selector: string, expected: string) =>
  page.waitForFunction(
    ([selector, expected]) => document.querySelector(selector as string)?.textContent === expected,
    [selector, expected],
    { timeout: 20_000 },
  );

const questionsOf = ({ requests }: { requests: string[] }) => requests.filter((line) => line.includes('/ask/stream'));

t.test('the page of the README', { skip: noBrowser, timeout: 60_000 }, async (t) => {
  const browser = await launch(t);

  t.test('a reload in the middle of an answer does not ask twice', async (t) => {
    const upstream = await startUpstream(t, ({ response }) => void sse(response).write(text('Because ')));
    const site = await startSite(t, (await serve(t, { env: bellaAt(upstream.url) })).url, { '/page': PAGE });
    const page = await (await browser.newContext()).newPage();
    await page.goto(`${site.url}/page`);
    await waitForText(page, '#answer', 'Because ');
    await page.reload();
    await waitForText(page, '#answer', 'Because ');
    (await upstream.call(1)).response.end(text('of light.') + STOP + DONE);
    await waitForText(page, '#answer', 'Because of light.');
    await page.reload();
    await waitForText(page, '#answer', 'Because of light.');
    t.equal(questionsOf(site).length, 3, 'three requests');
    t.equal(upstream.calls.length, 1, 'one provider call');
    t.match(JSON.parse(upstream.calls[0]?.body ?? '').messages, [{ content: 'Why is the sky blue?' }], 'the question');
    const other = await page.context().newPage();
    await other.goto(`${site.url}/page`);
    await upstream.call(2);
    t.pass('a page that is opened for itself asks');
  });

  t.test(
    'opens the stream again where the browser gives up: after a pause, when it is online, ten times',
    async (t) => {
      const upstream = await startUpstream(t, ({ response }) => void sse(response).write(text('Because ')));
      const site = await startSite(t, (await serve(t, { env: bellaAt(upstream.url) })).url, { '/page': PAGE });
      const page = await (await browser.newContext()).newPage();
      await page.addInitScript(() => {
        const wait = setTimeout;
        globalThis.setTimeout = ((run: () => void, ms = 0) => wait(run, ms / 50)) as typeof setTimeout;
        Object.defineProperty(navigator, 'onLine', { get: () => !('isOffline' in globalThis) });
      });
      let refusals = 0;
      await page.route('**/ask/stream?*', (route) => {
        refusals += 1;
        return refusals <= 3 ? route.fulfill({ status: 502 }) : route.fallback();
      });
      await page.goto(`${site.url}/page`);
      await waitForText(page, '#answer', 'Because ');
      t.equal(refusals, 4, 'three refusals, then an answer');
      // The browser comes back, and is refused until its page gives up.
      refusals = -1_000;
      await page.unroute('**/ask/stream?*');
      const urls: string[] = [];
      await page.route('**/ask/stream?*', (route) => {
        urls.push(route.request().url());
        return route.fulfill({ status: 502 });
      });
      await page.evaluate(() => Object.assign(globalThis, { isOffline: true }));
      site.cut();
      await until(() => urls.length === 1, 'the browser reconnects');
      await page.evaluate(() => fetch('/livez').then(() => {}));
      t.equal(urls.length, 1, 'nothing is opened while the browser is offline');
      await page.evaluate(() => {
        Reflect.deleteProperty(globalThis, 'isOffline');
        dispatchEvent(new Event('online'));
      });
      await waitForText(page, '#answer', 'Because \nNo connection. Please reload the page.');
      t.equal(urls.length, 11, 'ten times after the reconnect');
      t.ok(
        urls.slice(1).every((url) => /\.[1-9]\d*$/.test(new URL(url).searchParams.get('lastEventId') ?? '')),
        'behind the last event',
      );
      t.equal(upstream.calls.length, 1, 'one provider call');
    },
  );

  t.test('a service worker that repeats requests does not ask twice', async (t) => {
    const upstream = await startUpstream(t, ({ response }) => void sse(response).write(text('Because ')));
    const { url } = await serve(t, { env: bellaAt(upstream.url) });
    const site = await startSite(t, url, { '/page': PAGE, ...WORKER_FILES });
    const page = await openWithWorker(browser, site);
    await waitForText(page, '#answer', 'Because ');
    await page.reload();
    (await upstream.call(1)).response.end(text('of light.') + STOP + DONE);
    await waitForText(page, '#answer', 'Because of light.');
    t.ok(questionsOf(site).length > 2, 'more requests than openings of the page');
    t.equal(upstream.calls.length, 1, 'one provider call');
  });
});

const APP = `
import { StrictMode, useState } from 'react';
import { Answer } from '/answer.js';

globalThis.sources = [];
globalThis.EventSource = class extends EventSource {
  constructor(url) {
    super(url);
    sources.push(this);
  }
};
const wait = setTimeout;
globalThis.setTimeout = (run, ms = 0) => wait(run, ms / 50);

async function ticket() {
  const response = await fetch('/ticket');
  if (!response.ok) throw new Error('no ticket');
  return response.text();
}

function App() {
  const [asked, setAsked] = useState(() => ({ question: 'Why?', id: crypto.randomUUID() }));
  globalThis.setAsked = setAsked;
  return asked && <Answer {...asked} ticket={location.hash ? ticket : undefined} />;
}

ReactDOM.createRoot(document.getElementById('root')).render(<StrictMode><App /></StrictMode>);
`;

const REACT_FILES = {
  '/page': REACT_PAGE,
  '/answer.js': compileReact(codeBlock(README, 'jsx', 'useEffect')),
  '/app.js': compileReact(APP),
};

interface ReactGlobals {
  sources: EventSource[];
  setAsked(asked: unknown): void;
}

t.test('the React component of the README, in StrictMode', { skip: noBrowser, timeout: 60_000 }, async (t) => {
  const browser = await launch(t);

  t.test('asks once, and closes its EventSource', async (t) => {
    const upstream = await startUpstream(t, ({ response }) => void sse(response).write(text('Because ')));
    const site = await startSite(t, (await serve(t, { env: bellaAt(upstream.url) })).url, REACT_FILES);
    const page = await browser.newPage();
    await page.goto(`${site.url}/page`);
    await waitForText(page, '#root p', 'Because ');
    t.equal(questionsOf(site).length, 1, 'one request, although effects run twice');
    t.equal(
      await page.evaluate(() => (globalThis as unknown as ReactGlobals).sources.length),
      1,
      'the first of the two mounts opens nothing',
    );
    (await upstream.call(1)).response.write(text('of light.'));
    await waitForText(page, '#root p', 'Because of light.');
    await page.evaluate(() => (globalThis as unknown as ReactGlobals).setAsked(undefined));
    await page.waitForFunction(() =>
      (globalThis as unknown as ReactGlobals).sources.every((one) => one.readyState === 2),
    );
    t.equal(upstream.calls.length, 1, 'one provider call');
  });

  t.test('behind a service worker, opens the stream again after a cut, and asks once', async (t) => {
    const upstream = await startUpstream(t, ({ response }) => void sse(response).write(text('Because ')));
    const { url } = await serve(t, { env: bellaAt(upstream.url) });
    const site = await startSite(t, url, { ...REACT_FILES, ...WORKER_FILES });
    const page = await openWithWorker(browser, site);
    await waitForText(page, '#root p', 'Because ');
    // How many requests an opening makes depends on the worker.
    const before = questionsOf(site).length;
    site.cut();
    await until(() => questionsOf(site).length > before, 'the page has opened the stream again');
    (await upstream.call(1)).response.end(text('of light.') + STOP + DONE);
    await waitForText(page, '#root p', 'Because of light.');
    t.equal(upstream.calls.length, 1, 'one provider call');
  });

  t.test('gets a new ticket after a refusal, and asks once', async (t) => {
    const upstream = await startUpstream(t, completeAnswer('Because ', 'of light.'));
    const file = writeConfig(t, `keys: [{ name: web, sha256: "${sha256('sk-web')}" }]\n`);
    const { url } = await serve(t, { env: bellaAt(upstream.url, { CONFIG_FILE: file }) });
    let requests = 0;
    const site = await startSite(t, url, {
      ...REACT_FILES,
      '/ticket': async (_, response) => {
        requests += 1;
        if (requests === 1) return void response.writeHead(503).end();
        if (requests === 2) return void response.end('not-a-ticket');
        const headers = { ...bearer('sk-web'), 'content-type': 'application/json' };
        const minted = await fetch(`${url}/tickets`, { method: 'POST', headers, body: '{"visitor":"v"}' });
        response.end(((await minted.json()) as { ticket: string }).ticket);
      },
    });
    const page = await browser.newPage();
    await page.goto(`${site.url}/page#ticket`);
    await waitForText(page, '#root p', 'Because of light.');
    t.equal(requests, 3, 'a ticket for each opening');
    t.equal(upstream.calls.length, 1, 'one provider call');
  });
});
