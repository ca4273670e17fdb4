/// <reference lib="dom" />
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BrowserContext, Page } from 'playwright-core';
import t, { type Test } from 'tap';
import { launch, noBrowser } from './browser.ts';
import { codeBlock } from './code-blocks.ts';
import { bellaAt, until } from './helper.ts';
import { noNginx, startNginx } from './nginx.ts';
import { runServer } from './process.ts';
import { freePort } from './redis.ts';
import { completeAnswer, DONE, STOP, sse, startUpstream, text, type Upstream } from './upstream.ts';

/** Runs the public page of the quick start from its text. Only ports, the key and its hash are filled in. */

const [, SECTION = ''] = readFileSync('docs/quickstart.md', 'utf8').split('## A public page');

const block = (language: string) => codeBlock(SECTION, language);

interface PublicPage {
  readonly url: string;
  readonly upstream: Upstream;
  /** Starts a browser of another visitor, and opens the page in it. */
  visit(): Promise<{ context: BrowserContext; page: Page; tickets: string[] }>;
}

/** Starts everything that the section describes. Questions with `slow` are answered in part: the test ends them. */
async function startPublicPage(t: Test): Promise<PublicPage> {
  const upstream = await startUpstream(t, (call) => {
    if (call.body.includes('slow')) sse(call.response).write(text('one\n') + text('  two 🚀 '));
    else return completeAnswer('A quick ', 'answer.')(call);
  });
  const printed = execFileSync(process.execPath, ['build/scripts/new-key.js', 'web'], { encoding: 'utf8' });
  const [, key = '', hash = ''] = /(sk-\S+).*sha256: (\w+)/s.exec(printed) ?? [];
  const folder = mkdtempSync(join(tmpdir(), 'quickstart-'));
  const config = join(folder, 'sluice.yaml');
  writeFileSync(config, block('yaml').replace('<the printed hash>', hash));
  const service = await runServer(t, bellaAt(upstream.url, { CONFIG_FILE: config, TRUST_PROXY: '1' }));
  const port = await freePort();
  const adapt = (text: string) => text.replaceAll('http://127.0.0.1:3000', service.url).replaceAll('3001', `${port}`);
  writeFileSync(join(folder, 'backend.mjs'), adapt(block('js')));
  writeFileSync(join(folder, 'index.html'), block('html'));
  // The shell leaves the folder of the project, in which the options for Node of the tests are valid.
  const backend = spawn(
    'sh',
    ['-c', 'cd "$0" && unset NODE_OPTIONS && exec "$1" backend.mjs', folder, process.execPath],
    {
      env: { PATH: process.env.PATH, SLUICE_KEY: key },
      stdio: ['ignore', 'inherit', 'inherit'],
    },
  );
  t.teardown(async () => {
    if (backend.exitCode === null && backend.kill()) await once(backend, 'exit');
    rmSync(folder, { recursive: true, force: true });
  });
  await until(
    () =>
      fetch(`http://127.0.0.1:${port}`).then(
        () => true,
        () => false,
      ),
    'the backend listens',
  );
  const gateway = await startNginx(
    t,
    `error_log /dev/stderr; events {} http { access_log /dev/stdout; ${block('nginx')} }`,
    adapt,
  );
  const browser = await launch(t);
  return {
    url: gateway.url,
    upstream,
    async visit() {
      const context = await browser.newContext();
      // The page waits for seconds before it opens a stream again.
      await context.addInitScript(() => {
        const original = setTimeout;
        globalThis.setTimeout = ((run: () => void, ms: number) => original(run, ms / 50)) as typeof setTimeout;
      });
      const page = await context.newPage();
      const tickets: string[] = [];
      page.on('pageerror', (error) => t.fail(`the page has an error: ${error}`));
      page.on('response', async (response) => {
        if (response.url().endsWith('/api/ticket') && response.ok()) tickets.push((await response.json()).ticket);
      });
      await page.goto(gateway.url);
      return { context, page, tickets };
    },
  };
}

async function ask(page: Page, question: string): Promise<void> {
  await page.fill('#question', question);
  await page.press('#question', 'Enter');
}

/** Waits until the page shows exactly this answer. */
async function waitForAnswer(page: Page, answer: string): Promise<void> {
  await page.waitForFunction((text) => document.querySelector('#answer')?.textContent === text, answer, {
    timeout: 20_000,
  });
}

const PART = 'one\n  two 🚀 ';

t.test(
  'the public page of the quick start, from its own text',
  { skip: noBrowser || noNginx, timeout: 90_000 },
  async (t) => {
    t.ok(block('js').trim().split('\n').length <= 22, 'the backend has about twenty lines');
    const { url, upstream, visit } = await startPublicPage(t);
    const { page, context, tickets } = await visit();

    await t.test('a reload in the middle reads the same answer, with another ticket', async (t) => {
      await ask(page, 'slow?');
      await waitForAnswer(page, PART);
      await page.reload();
      await waitForAnswer(page, PART);
      (await upstream.call(1)).response.end(text('three') + STOP + DONE);
      await waitForAnswer(page, `${PART}three`);
      t.equal(await page.inputValue('#question'), 'slow?', 'the question is restored, too');
      await page.waitForFunction(() => history.state.answer !== undefined);
      t.equal(upstream.calls.length, 1, 'one provider call');
      t.equal(new Set(tickets).size, 2, 'each opening has a ticket of its own');
      await page.reload();
      await waitForAnswer(page, `${PART}three`);
      t.equal(tickets.length, 2, 'a complete answer needs no ticket');
      t.equal(
        JSON.parse(upstream.calls[0]?.body ?? '').max_tokens ??
          JSON.parse(upstream.calls[0]?.body ?? '').max_completion_tokens,
        2_000,
        'the ticket bounds the answer',
      );
    });

    await t.test('after a refusal of the gateway the page opens the stream again with a new ticket', async (t) => {
      const before = tickets.length;
      let refusals = 0;
      await page.route('**/ask/stream?*', (route) => {
        refusals += 1;
        return refusals === 1 ? route.fulfill({ status: 502 }) : route.fallback();
      });
      await ask(page, 'again?');
      await waitForAnswer(page, 'A quick answer.');
      await page.unroute('**/ask/stream?*');
      t.equal(tickets.length - before, 2, 'two tickets');
      t.equal(upstream.calls.length, 2, 'one more provider call');
    });

    await t.test('Stop ends the answer at the provider and keeps the text', async (t) => {
      await ask(page, 'slow, to be stopped');
      await waitForAnswer(page, PART);
      await page.click('#stop');
      await (await upstream.call(3)).closed;
      await page.waitForFunction(() => history.state.answer !== undefined);
      t.equal(await page.textContent('#answer'), PART, 'the text');
      const cookie = (await context.cookies(url)).find(({ name }) => name === 'visitor');
      t.match(cookie, { httpOnly: true, sameSite: 'Lax' }, 'the cookie of the visitor');
    });

    await t.test('a second visitor has streams and limits of its own', async (t) => {
      await ask(page, 'slow, of the first');
      await waitForAnswer(page, PART);
      const { key } = await page.evaluate(() => history.state as { key: string });
      const other = await visit();
      t.equal(await other.page.textContent('#answer'), '', 'the page of another visitor is empty');
      await other.page.evaluate((key) => history.replaceState({ question: 'slow, of the first', key }, ''), key);
      await other.page.reload();
      await waitForAnswer(other.page, PART);
      t.equal(
        (await upstream.call(5)).body,
        upstream.calls[3]?.body,
        'the same key is another question of another visitor',
      );
      upstream.calls[4]?.response.end(text('of the second') + STOP + DONE);
      await waitForAnswer(other.page, `${PART}of the second`);
      t.equal(await page.textContent('#answer'), PART, 'the first visitor has its own answer');
      upstream.calls[3]?.response.end(STOP + DONE);

      const query = `question=more&key=hammer&ticket=${tickets.at(-1)}`;
      let refused: Response | undefined;
      for (let i = 0; i < 12 && refused === undefined; i++) {
        const response = await fetch(`${url}/ask/stream?${query}`, { headers: { accept: '*/*' } });
        await response.text();
        if (response.status === 429) refused = response;
      }
      t.ok(Number(refused?.headers.get('retry-after')) > 0, 'the first visitor is over its limit');
      await ask(page, 'over?');
      await page.waitForFunction(() =>
        /^\s*Too many requests.* \d+$/.test(document.querySelector('#answer')?.textContent ?? ''),
      );
      await ask(other.page, 'still there?');
      await waitForAnswer(other.page, 'A quick answer.');
    });

    await t.test('only the paths of the page are public, and tickets are limited by address', async (t) => {
      for (const path of ['/metrics', '/docs', '/readyz?verbose'])
        t.match(await (await fetch(url + path)).text(), '<title>Ask</title>', `${path} is not that of the service`);
      t.equal((await fetch(`${url}/tickets`, { method: 'POST' })).status, 404, 'tickets of the service');
      const statuses = await Promise.all(
        Array.from({ length: 30 }, async () => (await fetch(`${url}/api/ticket`, { method: 'POST' })).status),
      );
      t.ok(statuses.includes(429), 'a visitor who always forgets its cookie is refused');
    });
  },
);
