/// <reference lib="dom" />
import { readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import fc from 'fast-check';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import t, { type Test } from 'tap';
import type * as Client from '../../client/client.ts';
import { launch, noBrowser } from '../browser.ts';
import { noCluster, startCluster, startStream } from '../cluster.ts';
import { codeBlock } from '../code-blocks.ts';
import { bellaAt, deferred, serve, until } from '../helper.ts';
import { startSite } from '../site.ts';
import { tcpProxy } from '../tcp-proxy.ts';
import { numberedAnswer, numberedDeltas, startUpstream, type Upstream } from '../upstream.ts';
import { answerAfter, lastOf, TEXT } from './answers.ts';
import { CUT, type HeaderCut, startCuttingProxy } from './cuts.ts';

/** The client in a real Chromium, over HTTP/1.1. All tests share one browser. */

interface PageGlobals {
  client: typeof Client;
  answer: Client.Answer;
  deltas: string;
}

/** Opens a page of the service, in a context of its own unless one is given, and loads the client. */
async function open(t: Test, from: Browser | BrowserContext, url: string): Promise<Page> {
  const context = 'newContext' in from ? await from.newContext() : from;
  if (context !== from) t.teardown(() => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(90_000); // Detects a hang; a busy machine does not reach it.
  page.on('pageerror', (error) => t.fail(`the page has an error: ${error}`));
  await page.goto(`${url}/livez`);
  await load(page);
  return page;
}

const load = (page: Page) => page.evaluate(`import('/client.js').then((client) => void (globalThis.client = client))`);

/** Starts a question in a page, which collects the text of all deltas. */
const start = (page: Page, question: string, key = question) =>
  page.evaluate(
    ([question, key]) => {
      const globals = globalThis as unknown as PageGlobals;
      globals.answer = globals.client.ask(question as string, { key: (key as string).replaceAll(' ', '-') });
      globals.deltas = '';
      globals.answer.addEventListener('delta', ({ detail }) => (globals.deltas += detail.content));
    },
    [question, key],
  );

const deltasOf = (page: Page) => page.evaluate(() => (globalThis as unknown as PageGlobals).deltas);

const untilText = (page: Page, part: string) =>
  page.waitForFunction((part) => (globalThis as unknown as PageGlobals).deltas.includes(part), part);

const stop = (page: Page) => page.evaluate(() => (globalThis as unknown as PageGlobals).answer.stop());

/** Waits for the end of the answer, and returns the text of its deltas, the property, and that of the `end` event. */
const finish = (page: Page) =>
  page.evaluate(async () => {
    const { answer, deltas: _ } = globalThis as unknown as PageGlobals;
    const end = await answer.answer;
    return [(globalThis as unknown as PageGlobals).deltas, answer.text, end.answer];
  });

async function textOf(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const part of request.setEncoding('utf8')) text += part;
  return text;
}

const COMPLETE = [TEXT, TEXT, TEXT];
const callsOf = (upstream: Upstream, question: string) => upstream.calls.filter((call) => lastOf(call) === question);

t.test('the client in a browser', { skip: noBrowser, timeout: 240_000 }, async (t) => {
  const browser = await launch(t, [], true);
  const gates = new Map<string, Promise<void>>();
  /** Holds the end of the answer to a question back, so that a cut happens before it. Returns the release. */
  const hold = (question: string) => {
    const { promise, resolve } = deferred();
    gates.set(question, promise);
    return resolve;
  };
  const upstream = await startUpstream(t, (call) => answerAfter(gates.get(lastOf(call)) ?? Promise.resolve())(call));
  const service = await serve(t, { env: bellaAt(upstream.url) });
  t.jobs = 4;

  t.test('cuts after any number of bytes lose and repeat nothing, and ask once', async (t) => {
    const proxy = await startCuttingProxy(t, service.url);
    const cases = fc.sample(fc.array(CUT, { minLength: 1, maxLength: 2 }), { numRuns: 24, seed: 25 });
    // Four at a time in each page: more would share the slots.
    const pages = await Promise.all([0, 1, 2].map(() => open(t, browser, proxy.url)));
    const run = async (page: Page, cuts: HeaderCut[], question: string) => {
      const texts = await page.evaluate(
        async ({ cuts, question }) => {
          const { client } = globalThis as unknown as PageGlobals;
          const left = [...cuts];
          const running = client.ask(question, {
            fetch: (input, init) => {
              const cut = init?.method === undefined ? left.shift() : undefined;
              return fetch(input, { ...init, ...(cut && { headers: { 'x-cut': `${cut.at} ${cut.by}` } }) });
            },
          });
          let deltas = '';
          for await (const event of running) if (event.type === 'delta') deltas += event.content;
          return [deltas, running.text, (await running.answer).answer];
        },
        { cuts, question },
      );
      t.same(texts, COMPLETE, JSON.stringify(cuts));
      t.equal(callsOf(upstream, question).length, 1, 'one call');
    };
    await Promise.all(
      [0, 1, 2, 3].flatMap((lane) =>
        pages.map(async (page, i) => {
          for (const [n, cuts] of cases.entries()) if (n % 12 === lane * 3 + i) await run(page, cuts, `cut ${n}`);
        }),
      ),
    );
  });

  t.test('eight tabs over HTTP/1.1 all answer, and stopping one ends its call', async (t) => {
    const proxy = await startCuttingProxy(t, service.url);
    const context = await browser.newContext();
    t.teardown(() => context.close());
    const names = Array.from({ length: 8 }, (_, i) => `endless tab ${i}`);
    const pages = await Promise.all(names.map(() => open(t, context, proxy.url)));
    for (const [i, page] of pages.entries()) await start(page, names[i] as string);
    await Promise.all(pages.map((page) => untilText(page, '9 ')));
    t.pass('every tab has some text');
    const [first, ...others] = pages as [Page, ...Page[]];
    const before = await Promise.all(others.map(deltasOf));
    await stop(first);
    await callsOf(upstream, names[0] as string)[0]?.closed;
    await Promise.all(others.map((page, i) => untilText(page, `${(before[i] as string).split(' ').length + 20} `)));
    t.pass('the other tabs read on');
    await others[0]?.close();
    await Promise.all(others.slice(1).map(stop));
    for (const page of others.slice(1)) {
      const [deltas = ''] = await finish(page);
      const count = deltas.trim().split(' ').length;
      t.equal(deltas.trim(), [...Array(count).keys()].join(' '), 'a text that was read in turns');
    }
    for (const name of names) t.equal(callsOf(upstream, name).length, 1, `one call for ${name}`);
    await until(() => proxy.requests.filter((line) => line.includes('/stop')).length === 7, 'every stop arrives');
  });

  t.test('a reload finds the answer by its key', async (t) => {
    const page = await open(t, browser, service.url);
    await start(page, 'endless reload');
    await untilText(page, '5 ');
    const before = await deltasOf(page);
    await page.reload();
    await load(page);
    await start(page, 'endless reload');
    await untilText(page, before);
    await stop(page);
    await callsOf(upstream, 'endless reload')[0]?.closed;
    t.equal(callsOf(upstream, 'endless reload').length, 1, 'one call');
  });

  t.test('a service worker that passes requests on, and a cut', async (t) => {
    const site = await startSite(t, service.url, {
      '/worker.js': `addEventListener('fetch', (event) => event.respondWith(fetch(event.request)));
addEventListener('activate', (event) => event.waitUntil(clients.claim()));`,
    });
    const page = await open(t, browser, site.url);
    await page.evaluate(async () => {
      const ready = new Promise((resolve) => navigator.serviceWorker.addEventListener('controllerchange', resolve));
      await navigator.serviceWorker.register('/worker.js');
      if (!navigator.serviceWorker.controller) await ready;
    });
    const release = hold('worker');
    await start(page, 'worker');
    await untilText(page, '你好');
    site.cut();
    release();
    t.same(await finish(page), COMPLETE);
    t.equal(callsOf(upstream, 'worker').length, 1, 'one call');
  });

  t.test('offline for a while', async (t) => {
    const proxy = await tcpProxy(t, service.url);
    const page = await open(t, browser, proxy.url);
    let failures = 0;
    page.on('requestfailed', () => {
      failures += 1;
    });
    const release = hold('offline');
    await start(page, 'offline');
    await untilText(page, '你好');
    await page.context().setOffline(true);
    proxy.cut();
    await until(() => failures >= 2, 'the cut, and an attempt without a network');
    release();
    await page.context().setOffline(false);
    t.same(await finish(page), COMPLETE);
    t.equal(callsOf(upstream, 'offline').length, 1, 'one call');
  });

  t.test('a tab that is frozen while its connection is cut', async (t) => {
    const proxy = await tcpProxy(t, service.url);
    const page = await open(t, browser, proxy.url);
    const devtools = await page.context().newCDPSession(page);
    const release = hold('frozen');
    await start(page, 'frozen');
    await untilText(page, 'Streams');
    await devtools.send('Page.setWebLifecycleState', { state: 'frozen' });
    proxy.cut();
    release();
    await until(() => callsOf(upstream, 'frozen')[0]?.finished === true, 'the provider has answered');
    await devtools.send('Page.setWebLifecycleState', { state: 'active' });
    t.same(await finish(page), COMPLETE);
    t.equal(callsOf(upstream, 'frozen').length, 1, 'one call');
  });

  t.test('the page of the documents answers, finds its answer after a reload, and stops', async (t) => {
    const page = codeBlock(readFileSync('docs/clients/sluice-client.md', 'utf8'), 'html', '/client.js');
    const site = await startSite(t, service.url, {
      '/page': `<!doctype html><meta charset="utf-8">${page}`,
      '/endless': `<!doctype html><meta charset="utf-8">${page.replace('Why is the sky blue?', 'endless page')}`,
    });
    const tab = await browser.newPage();
    t.teardown(() => tab.close());
    const shows = (text: string) =>
      tab.waitForFunction((text) => document.querySelector('pre')?.textContent?.startsWith(text), text);
    await tab.goto(`${site.url}/page`);
    await shows(TEXT);
    await tab.reload();
    await shows(TEXT);
    t.equal(callsOf(upstream, 'Why is the sky blue?').length, 1, 'one call');
    await tab.goto(`${site.url}/endless`);
    await shows('0 1 2 3 ');
    await tab.click('#stop');
    await callsOf(upstream, 'endless page')[0]?.closed;
    t.equal(callsOf(upstream, 'endless page').length, 1, 'one call');
  });

  t.test('a page that is left while it reads, and shown again by going back', async (t) => {
    const example = codeBlock(readFileSync('docs/clients/sluice-client.md', 'utf8'), 'html', '/client.js');
    const shown: string[] = [];
    let text = '';
    const site = await startSite(t, service.url, {
      '/page': `<!doctype html><meta charset="utf-8"><script>
const report = (path, body) => fetch(path, { method: 'POST', body });
addEventListener('pageshow', ({ persisted }) => report('/shown', persisted ? 'restored' : 'loaded'));
setInterval(() => report('/text', document.querySelector('pre').textContent), 100);
</script>${example.replace('Why is the sky blue?', 'history')}`,
      '/other': '<!doctype html><title>other</title>',
      async '/shown'(request, response) {
        shown.push(await textOf(request));
        response.end();
      },
      async '/text'(request, response) {
        text = await textOf(request);
        response.end();
      },
    });
    const release = hold('history');
    const page = await browser.newPage();
    await page.goto(`${site.url}/page`);
    await until(() => text.includes('你好'), 'some text');
    await page.goto(`${site.url}/other`);
    await page.evaluate(() => history.back());
    await until(() => shown.length === 2, 'the page is shown again');
    t.comment(shown.join(', then ')); // The browser decides whether it restores a page.
    release();
    await until(() => text === TEXT, 'the text is exact');
    t.equal(callsOf(upstream, 'history').length, 1, 'one call');
    await page.close();
  });

  t.test('readers of a replica that is killed continue on another one', { skip: noCluster }, async (t) => {
    const { promise, resolve } = deferred();
    const cluster = await startCluster(t, numberedAnswer(60, 10, promise));
    const path = await startStream(cluster, 0);
    const pages = await Promise.all([0, 1].map(() => open(t, browser, cluster.url)));
    const reading = pages.map((page) =>
      page.evaluate(async (path) => {
        const globals = globalThis as unknown as PageGlobals;
        const answers = [0, 1].map(() => globals.client.read(path));
        globals.deltas = '';
        answers[0]?.addEventListener('delta', ({ detail }) => (globals.deltas += detail.content));
        answers[1]?.addEventListener('delta', () => (globals.answer = answers[1] as Client.Answer));
        return Promise.all(answers.map(async (answer) => [answer.text, (await answer.answer).answer, answer.text]));
      }, path),
    );
    await Promise.all(pages.map((page) => untilText(page, '5你')));
    await Promise.all(pages.map((page) => page.waitForFunction(() => 'answer' in globalThis)));
    cluster.replicas[1]?.child.kill('SIGKILL');
    await cluster.replicas[1]?.exit;
    resolve();
    const text = numberedDeltas(60).join('');
    for (const texts of (await Promise.all(reading)).flat()) t.same(texts.slice(1), [text, text]);
    t.equal(cluster.upstream.calls.length, 1, 'one call');
    const reads = cluster.gatewayLog().split(`GET ${path}`).length - 1;
    t.ok(reads > 4, `four answers in ${reads} connections`);
  });
});
