/// <reference lib="dom" />
import { readFileSync } from 'node:fs';
import t from 'tap';
import {
  ANSWER,
  callsOf,
  cutPlaces,
  measureResponse,
  proxiesFor,
  startAguiCluster,
  withApi,
} from '../agui/browser-cases.ts';
import { openClientPage, testPages } from '../agui/client-pages.ts';
import { launch, noBrowser } from '../browser.ts';
import { noCluster } from '../cluster.ts';
import { codeBlock } from '../code-blocks.ts';
import { bundle, noClients } from './packages.ts';

/** `HttpAgent` in a browser, with the agent and the page of docs/clients/ag-ui.md, behind nginx and two replicas. */

const DOCUMENT = readFileSync('docs/clients/ag-ui.md', 'utf8');
const AGENT = codeBlock(DOCUMENT, 'js', '// sluice-agent.js');
const PAGE_SCRIPT = codeBlock(DOCUMENT, 'js', '// page.js');
const HTML = `<form><input name="question"><button type="submit">Ask</button></form>
<button type="button" id="stop">Stop</button><p class="assistant" id="answer"></p>`;
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

t.test('HttpAgent', { skip: noClients || noBrowser || noCluster, timeout: 120_000 }, async (t) => {
  const [cluster, browser] = await Promise.all([startAguiCluster(t), launch(t)]);
  const script = await bundle(`${AGENT}\n${withApi(PAGE_SCRIPT.replace(/import .*\n/, ''))}\n${ASK_ALL}`);
  const site = { cluster, browser, script, html: HTML, readyGlobal: 'askAll', isProblem: /ag-ui/ };

  t.test(`a cut after any number of bytes, once and twice (seed ${SEED})`, async (t) => {
    const { length } = await measureResponse(t, cluster);
    const places = cutPlaces(length, 1, CUTS, SEED);
    const proxies = await proxiesFor(t, cluster, places, true);
    const { page, problems } = await openClientPage(t, site);
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

  testPages(t, site, async (t, { page }) => {
    await page.waitForFunction(() => sessionStorage.getItem('chat')?.includes('of light.'));
    await page.reload();
    await page.waitForFunction(() => (globalThis as unknown as Globals).agent?.isRunning === false);
    t.equal(cluster.gatewayLog().match(/"GET \/agui" 204/g)?.length, 1, 'nothing runs');
  });
});
