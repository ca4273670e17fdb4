/// <reference lib="dom" />
import { readFileSync } from 'node:fs';
import type { Page } from 'playwright-core';
import t from 'tap';
import {
  ANSWER,
  callOf,
  callsOf,
  cutPlaces,
  measureResponse,
  proxiesFor,
  startAguiCluster,
  withApi,
} from '../agui/browser-cases.ts';
import { openClientPage, testPages, waitForAnswer } from '../agui/client-pages.ts';
import { launch, noBrowser } from '../browser.ts';
import { noCluster } from '../cluster.ts';
import { codeBlock } from '../code-blocks.ts';
import { tcpProxy } from '../tcp-proxy.ts';
import { chunk, DONE } from '../upstream.ts';
import { bundle, noClients } from './packages.ts';

/** `useChat` of TanStack AI in a browser, with the component of docs/clients/tanstack-ai.md, behind nginx and two replicas. */

const CHAT = codeBlock(readFileSync('docs/clients/tanstack-ai.md', 'utf8'), 'jsx', 'useChat');
const AGENT = codeBlock(readFileSync('docs/clients/ag-ui.md', 'utf8'), 'js', '// sluice-agent.js');
const RESUMING_FETCH = AGENT.slice(AGENT.indexOf('/** A `fetch`'));
const HTML = '<div id="root"></div>';

/** Renders the component of the document, or one that asks at a URL as soon as it is there, with a tool of the page. */
const APP = `
import { createRoot } from 'react-dom/client';
import { StrictMode, useEffect, useMemo } from 'react';
import { toolDefinition } from '@tanstack/ai/client';

const look = toolDefinition({ name: 'look', description: 'Looks', inputSchema: { type: 'object' } })
  .client(async (input) => { globalThis.looked = [...(globalThis.looked ?? []), input]; return { seen: 'a cat' }; });

function Asked({ url, question, fetchClient, tools = [] }) {
  const connection = useMemo(() => fetchServerSentEvents(url, { fetchClient }), []);
  const { messages, sendMessage, status, error } = useChat({ connection, tools });
  useEffect(() => void sendMessage(question), []);
  const textOf = (wanted) => messages.flatMap(({ role, parts }) =>
    role !== 'assistant' ? [] : parts.flatMap(({ type, content }) => type === wanted ? [content] : [])).join('|');
  return <p className="asked" data-status={error ? String(error) : status}>{textOf('thinking') + textOf('text')}</p>;
}

globalThis.render = (cases) => createRoot(document.getElementById('root')).render(
  cases.map(({ isPatient, hasTool, ...one }) => (
    <Asked key={one.url} {...one} fetchClient={isPatient ? resumingFetch : undefined} tools={hasTool ? [look] : []} />
  )),
);
if (location.hash) createRoot(document.getElementById('root')).render(
  <StrictMode><Chat threadId={location.hash} /></StrictMode>,
);`;

interface Case {
  readonly url: string;
  readonly question: string;
  /** True to repeat a request that was cut before its first event. */
  readonly isPatient?: boolean;
  readonly hasTool?: boolean;
}

interface Globals {
  render(cases: Case[]): void;
  looked?: unknown[];
}

const SEED = Date.now() % 1_000;
const CUTS = 15;

t.test('useChat of TanStack AI', { skip: noClients || noBrowser || noCluster, timeout: 120_000 }, async (t) => {
  const [cluster, browser] = await Promise.all([startAguiCluster(t), launch(t)]);
  const script = await bundle(`${withApi(CHAT)}\n${RESUMING_FETCH}\n${APP}`);
  /** A page whose location has a hash shows the component of the document. */
  const site = { cluster, browser, script, html: HTML, readyGlobal: 'render' };
  const render = async (page: Page, cases: Case[]) => {
    await page.evaluate((cases) => (globalThis as unknown as Globals).render(cases), cases);
    await page.waitForFunction(
      (count) => {
        const isOver = ({ dataset: { status = '' }, textContent }: HTMLElement) =>
          /Error/.test(status) || (status === 'ready' && textContent !== '');
        const all = Array.from(document.querySelectorAll<HTMLElement>('.asked'));
        return all.length === count && all.every(isOver);
      },
      cases.length,
      { timeout: 60_000 },
    );
    return page.$$eval('.asked', (all) =>
      all.map((one) => [(one as HTMLElement).dataset.status, one.textContent] as const),
    );
  };

  t.test(`a cut after any number of bytes, once and twice (seed ${SEED})`, async (t) => {
    const { length, firstEvent } = await measureResponse(t, cluster);
    // The ids of the page are longer.
    const bare = cutPlaces(length, firstEvent + 400, CUTS, SEED);
    const patient = cutPlaces(length, 1, CUTS, SEED);
    const [plain, wrapped] = await Promise.all([
      proxiesFor(t, cluster, bare, false),
      proxiesFor(t, cluster, patient, true),
    ]);
    const proxies = [...plain, ...wrapped];
    const cases = proxies.map(({ url }, i) => ({
      url: `${url}/agui`,
      question: `cut ${i}`,
      isPatient: i >= plain.length,
    }));
    const { page, problems } = await openClientPage(t, site);
    for (const [i, result] of (await render(page, cases)).entries()) {
      const isEnd = i % plain.length < 2;
      const places = i < plain.length ? bare : patient;
      const place = isEnd ? 'behind the last event' : `after ${places[(i % plain.length) - 2]} bytes`;
      t.same(result, ['ready', `Let me think. ${ANSWER}`], `${place}, ${i < plain.length ? 'bare' : 'patient'}`);
      t.equal(callsOf(cluster, `cut ${i}`).length, 1, 'one provider call');
    }
    t.ok(proxies.filter((proxy) => proxy.cuts > 0).length > cases.length * 0.8, 'connections were cut');
    t.same(problems, []);
  });

  t.test('a tool of the page runs, and the model gets its result', async (t) => {
    const { page } = await openClientPage(t, site);
    const proxy = await tcpProxy(t, cluster.url);
    const cases = [{ url: `${proxy.url}/agui`, question: 'tool', hasTool: true }];
    await page.evaluate((cases) => (globalThis as unknown as Globals).render(cases), cases);
    const first = await callOf(cluster, 'tool');
    const call = { index: 0, id: 'c1', function: { name: 'look', arguments: '{"at":1}' } };
    first.response.end(chunk({ tool_calls: [call] }) + chunk({}, 'tool_calls') + DONE);
    const second = await cluster.upstream.call(cluster.upstream.calls.length + 1);
    t.match(JSON.parse(first.body).tools, [{ function: { name: 'look' } }]);
    t.match(JSON.parse(second.body).messages, [
      { role: 'user' },
      { role: 'assistant', content: 'Because ', tool_calls: [{ id: 'c1', function: { arguments: '{"at":1}' } }] },
      { role: 'tool', tool_call_id: 'c1', content: '{"seen":"a cat"}' },
    ]);
    second.response.end(chunk({ content: 'A cat.' }, 'stop') + DONE);
    await page.waitForFunction(() => /A cat\.$/.test(document.querySelector('.asked')?.textContent ?? ''));
    t.equal(await page.textContent('.asked'), 'Because |Because A cat.');
    t.same(await page.evaluate(() => (globalThis as unknown as Globals).looked), [{ at: 1 }], 'it ran once');
  });

  testPages(t, site, async (t, { page }) => {
    await page.reload();
    await waitForAnswer(page, 'Because of light.');
    t.match(JSON.parse((await callOf(cluster, 'reload')).body).messages[0], { role: 'system', content: 'Be brief.' });
    t.equal(await page.locator('.error').count(), 0);
  });
});
