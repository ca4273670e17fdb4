import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
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
import { ask, openClientPage, testPages, waitForAnswer } from '../agui/client-pages.ts';
import { launch, noBrowser } from '../browser.ts';
import { noCluster } from '../cluster.ts';
import { codeBlock } from '../code-blocks.ts';
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

const SEED = Date.now() % 1_000;
const CUTS = Number(process.env.CUTS ?? 12);
/** Pages at the same time. */
const PAGES = 6;

const skip = noClients || noCopilotKit || noBrowser || noCluster;

t.test('CopilotKit without its runtime', { skip, timeout: 120_000 }, async (t) => {
  const [cluster, browser] = await Promise.all([startAguiCluster(t), launch(t)]);
  const components = withApi(COMPONENTS.replace(/import .*sluice-agent.*\n/, ''));
  const script = await bundle(
    `${AGENT}\n${components.replace('<Chat />', '<><Connect /><Chat /></>')}\n${RENDER}`,
    FOLDER,
  );
  const site = { cluster, browser, script, html: HTML, readyGlobal: 'isReady' };

  t.test(`a cut after any number of bytes, once and twice (seed ${SEED})`, async (t) => {
    const { length } = await measureResponse(t, cluster);
    const places = cutPlaces(length, 1, CUTS, SEED);
    const proxies = await proxiesFor(t, cluster, places, true);
    for (let from = 0; from < proxies.length; from += PAGES) {
      const ends = proxies.slice(from, from + PAGES).map(async (proxy, i) => {
        const question = `cut ${from + i}`;
        const { page, problems } = await openClientPage(t, site, question, proxy);
        await ask(page, question);
        const place = from + i < 2 ? 'behind the last event' : `after ${places[from + i - 2]} bytes`;
        await waitForAnswer(page, ANSWER).catch(() => t.fail(`no answer after a cut ${place}`));
        t.same(await page.locator('.reasoning').allTextContents(), ['Let me think. '], place);
        t.equal(await page.locator('.assistant').count(), 1, 'one message');
        t.equal(callsOf(cluster, question).length, 1, 'one provider call');
        t.same(problems, [], place);
        await page.context().close();
      });
      await Promise.all(ends);
    }
    t.ok(proxies.filter((proxy) => proxy.cuts > 0).length > CUTS * 0.8, 'connections were cut');
  });

  t.test('a tool of the page runs, and the model gets its result and the context', async (t) => {
    const { page, problems } = await openClientPage(t, site, 'tool');
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

  testPages(t, site);
});
