/// <reference lib="dom" />
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import t from 'tap';
import {
  callOf,
  callsOf,
  finish,
  moveToOtherReplica,
  pageFor,
  startAguiCluster,
  whileFrozen,
  withApi,
} from '../agui/browser-cases.ts';
import { launch, noBrowser } from '../browser.ts';
import { noCluster } from '../cluster.ts';
import { codeBlock } from '../code-blocks.ts';
import { startSite } from '../site.ts';
import { tcpProxy } from '../tcp-proxy.ts';
import { chunk, DONE } from '../upstream.ts';
import { bundle, noClients } from './packages.ts';

/** CopilotKit in a browser, with the components of docs/clients/copilotkit.md, behind nginx and two replicas. */

const FOLDER = join(process.cwd(), 'test/copilotkit');
const noCopilotKit = existsSync(join(FOLDER, 'node_modules'))
  ? false
  : 'CopilotKit is not installed; run `npm ci --prefix test/copilotkit --legacy-peer-deps`';

const COMPONENTS = codeBlock(readFileSync('docs/clients/copilotkit.md', 'utf8'), 'jsx', 'useAgent');
const AGENT = codeBlock(readFileSync('docs/clients/ag-ui.md', 'utf8'), 'js', '// sluice-agent.js');
const HTML = '<div id="root"></div>';
const RENDER = `
import { createRoot } from 'react-dom/client';
import { StrictMode, useEffect } from 'react';

/** Reads the run that a reload has left, as \`CopilotChat\` does. */
function Connect() {
  const { copilotkit } = useCopilotKit();
  const { agent } = useAgent();
  useEffect(() => void copilotkit.connectAgent({ agent }), [agent]);
  return null;
}

createRoot(document.getElementById('root')).render(<StrictMode><App threadId={location.hash} /></StrictMode>);
globalThis.isReady = true;`;

const waitForAnswer = (page: Page, expected: string) =>
  page.waitForFunction(
    (expected) => Array.from(document.querySelectorAll('.assistant')).at(-1)?.textContent === expected,
    expected,
    { timeout: 30_000 },
  );

async function ask(page: Page, question: string): Promise<void> {
  await page.fill('[name=question]', question);
  await page.click('[type=submit]');
}

const skip = noClients || noCopilotKit || noBrowser || noCluster;

t.test('CopilotKit without its runtime', { skip, timeout: 120_000 }, async (t) => {
  const [cluster, browser] = await Promise.all([startAguiCluster(t), launch(t)]);
  const components = withApi(COMPONENTS.replace(/import .*sluice-agent.*\n/, ''));
  const script = await bundle(
    `${AGENT}\n${components.replace('<Chat />', '<><Connect /><Chat /></>')}\n${RENDER}`,
    FOLDER,
  );
  const openPage = async (thread: string) => {
    const proxy = await tcpProxy(t, cluster.url);
    const site = await startSite(t, cluster.url, { '/page': pageFor(proxy.url, HTML), '/app.js': script });
    const page = await (await browser.newContext()).newPage();
    const problems: string[] = [];
    page.on('pageerror', (error) => void problems.push(String(error)));
    await page.goto(`${site.url}/page#${thread}`);
    await page.waitForSelector('[name=question]');
    return { page, proxy, problems };
  };

  t.test('a tool of the page runs, and the model gets its result and the context', async (t) => {
    const { page, problems } = await openPage('tool');
    await ask(page, 'tool');
    const first = await callOf(cluster, 'tool');
    const call = { index: 0, id: 'c1', function: { name: 'look', arguments: '{"at":"home"}' } };
    first.response.end(chunk({ tool_calls: [call] }) + chunk({}, 'tool_calls') + DONE);
    const second = await cluster.upstream.call(cluster.upstream.calls.length + 1);
    t.match(JSON.parse(first.body), {
      tools: [{ function: { name: 'look', parameters: { type: 'object' } } }],
      messages: [
        { role: 'system', content: /The cart has two items/ },
        { role: 'user', content: 'tool' },
      ],
    });
    t.match(JSON.parse(second.body).messages.slice(-2), [
      { role: 'assistant', tool_calls: [{ id: 'c1', function: { arguments: '{"at":"home"}' } }] },
      { role: 'tool', tool_call_id: 'c1', content: 'There is a cat at home.' },
    ]);
    second.response.end(chunk({ content: 'A cat.' }, 'stop') + DONE);
    await waitForAnswer(page, 'Because A cat.');
    t.same(problems, []);
  });

  t.test('a reload, a hidden tab and a cut', async (t) => {
    const { page, proxy, problems } = await openPage('reload');
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
    t.equal(await page.locator('.assistant').count(), 1, 'one message');
    t.same(problems, []);
  });

  t.test('stop ends the call', async (t) => {
    const { page } = await openPage('stop');
    await ask(page, 'stop');
    await waitForAnswer(page, 'Because ');
    await page.click('[type=button]');
    await (await callOf(cluster, 'stop')).closed;
    t.equal(callsOf(cluster, 'stop').length, 1);
  });

  t.test('kill -9 of the serving replica', async (t) => {
    const { page, proxy, problems } = await openPage('kill');
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
