/// <reference lib="dom" />
import { readFileSync } from 'node:fs';
import type { Page } from 'playwright-core';
import t from 'tap';
import {
  ANSWER,
  callOf,
  callsOf,
  cutPlaces,
  finish,
  measureResponse,
  moveToOtherReplica,
  pageFor,
  proxiesFor,
  startAguiCluster,
  whileFrozen,
  withApi,
} from '../agui/browser-cases.ts';
import { launch, noBrowser } from '../browser.ts';
import { noCluster } from '../cluster.ts';
import { codeBlock } from '../code-blocks.ts';
import { startSite } from '../site.ts';
import { tcpProxy } from '../tcp-proxy.ts';
import { bundle, noClients } from './packages.ts';

/** `HttpAgent` in a browser, with the agent and the page of docs/clients/ag-ui.md, behind nginx and two replicas. */

const DOCUMENT = readFileSync('docs/clients/ag-ui.md', 'utf8');
const AGENT = codeBlock(DOCUMENT, 'js', '// sluice-agent.js');
const PAGE_SCRIPT = codeBlock(DOCUMENT, 'js', '// page.js');
const HTML = `<form><input name="question"><button>Ask</button></form>
<button id="stop">Stop</button><p id="answer"></p>`;
/** Asks agents at the given URLs, and tells how each run has ended. */
const ASK_ALL = `
globalThis.agent = agent;
globalThis.askAll = (urls) => Promise.all(urls.map(async (url, i) => {
  const agent = new SluiceAgent({ url });
  agent.addMessage({ id: 'u', role: 'user', content: 'cut ' + i });
  await agent.runAgent().catch((error) => agent.addMessage({ id: 'e', role: 'assistant', content: String(error) }));
  return agent.messages.map(({ role, content }) => role + ': ' + content);
}));`;

interface Globals {
  readonly agent: { readonly isRunning: boolean };
  askAll(urls: string[]): Promise<string[][]>;
}

const SEED = Date.now() % 1_000;
const CUTS = 30;

const waitForAnswer = (page: Page, expected: string) =>
  page.waitForFunction((expected) => document.querySelector('#answer')?.textContent === expected, expected, {
    timeout: 30_000,
  });

async function ask(page: Page, question: string): Promise<void> {
  await page.fill('[name=question]', question);
  await page.click('form button');
}

t.test('HttpAgent', { skip: noClients || noBrowser || noCluster, timeout: 120_000 }, async (t) => {
  const [cluster, browser] = await Promise.all([startAguiCluster(t), launch(t)]);
  const script = await bundle(`${AGENT}\n${withApi(PAGE_SCRIPT.replace(/import .*\n/, ''))}\n${ASK_ALL}`);
  /** Opens the page of the document. Its requests go through a proxy that the test can cut. */
  const openPage = async () => {
    const proxy = await tcpProxy(t, cluster.url);
    const site = await startSite(t, cluster.url, { '/page': pageFor(proxy.url, HTML), '/app.js': script });
    const page = await (await browser.newContext()).newPage();
    const problems: string[] = [];
    page.on('pageerror', (error) => void problems.push(String(error)));
    page.on('console', (message) => {
      if (/ag-ui/.test(message.text())) problems.push(message.text());
    });
    await page.goto(`${site.url}/page`);
    await page.waitForFunction(() => 'askAll' in globalThis);
    return { page, proxy, problems };
  };

  t.test(`a cut after any number of bytes, once and twice (seed ${SEED})`, async (t) => {
    const { length } = await measureResponse(t, cluster);
    const places = cutPlaces(length, 1, CUTS, SEED);
    const proxies = await proxiesFor(t, cluster, places, true);
    const { page, problems } = await openPage();
    const urls = proxies.map(({ url }) => `${url}/agui`);
    const answers = await page.evaluate((urls) => (globalThis as unknown as Globals).askAll(urls), urls);
    const expected = (i: number) => [`user: cut ${i}`, 'reasoning: Let me think. ', `assistant: ${ANSWER}`];
    for (const [i, answer] of answers.entries()) {
      t.same(answer, expected(i), i < 2 ? 'behind the last event' : `after ${places[i - 2]} bytes`);
      t.equal(callsOf(cluster, `cut ${i}`).length, 1, 'one provider call');
    }
    t.ok(proxies.filter((proxy) => proxy.cuts > 0).length > CUTS * 0.8, 'connections were cut');
    t.same(problems, [], 'the client complains about nothing');
  });

  t.test('a reload, and a hidden tab', async (t) => {
    const { page, proxy, problems } = await openPage();
    await ask(page, 'reload');
    await waitForAnswer(page, 'Because ');
    await page.reload();
    await waitForAnswer(page, 'Because ');
    await whileFrozen(page, async () => {
      proxy.cut();
      await finish(cluster, 'reload');
    });
    await waitForAnswer(page, 'Because of light.');
    t.equal(callsOf(cluster, 'reload').length, 1, 'one provider call');
    await page.waitForFunction(() => sessionStorage.getItem('chat')?.includes('of light.'));
    await page.reload();
    await page.waitForFunction(() => (globalThis as unknown as Globals).agent?.isRunning === false);
    t.equal(cluster.gatewayLog().match(/"GET \/agui" 204/g)?.length, 1, 'nothing runs');
    t.same(problems, []);
  });

  t.test('stop ends the call, also after a cut', async (t) => {
    const { page, proxy } = await openPage();
    await ask(page, 'stop');
    await waitForAnswer(page, 'Because ');
    proxy.cut();
    await page.click('#stop');
    await (await callOf(cluster, 'stop')).closed;
    t.equal(callsOf(cluster, 'stop').length, 1);
  });

  t.test('kill -9 of the serving replica', async (t) => {
    const { page, proxy, problems } = await openPage();
    await ask(page, 'kill');
    await waitForAnswer(page, 'Because ');
    const serving = await moveToOtherReplica(cluster, proxy);
    serving.child.kill('SIGKILL');
    await finish(cluster, 'kill');
    await waitForAnswer(page, 'Because of light.');
    t.equal(callsOf(cluster, 'kill').length, 1, 'one provider call');
    t.same(problems, []);
  });
});
