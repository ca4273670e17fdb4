/// <reference lib="dom" />
import type { Browser, Page, Response } from 'playwright-core';
import type { Test } from 'tap';
import type { Cluster } from '../cluster.ts';
import { startSite } from '../site.ts';
import { type TcpProxy, tcpProxy } from '../tcp-proxy.ts';
import { callOf, callsOf, finish, moveToOtherReplica, pageFor, whileFrozen } from './browser-cases.ts';

/**
 * Parts that the browser tests of AG-UI clients share: how a page is opened, asked, cut, reloaded and stopped. Each page has a
 * form with a field `question`, a button to submit and one to stop, and shows answers in elements of the class `assistant`.
 */

export interface ClientPage {
  readonly page: Page;
  /** Between the page and the cluster. */
  readonly proxy: TcpProxy;
  /** Errors of the page, and what its console says and `isProblem` matches. */
  readonly problems: string[];
}

export interface ClientSite {
  readonly cluster: Cluster;
  readonly browser: Browser;
  /** Served as `/app.js`. */
  readonly script: string;
  readonly html: string;
  /** Set by the script when the page can be used. */
  readonly readyGlobal: string;
  readonly isProblem?: RegExp;
}

/** Opens a page in a context of its own. Its requests go through a proxy of its own, unless one is given. */
export async function openClientPage(
  t: Test,
  { cluster, browser, script, html, readyGlobal, isProblem }: ClientSite,
  hash = '',
  given?: TcpProxy,
): Promise<ClientPage> {
  const proxy = given ?? (await tcpProxy(t, cluster.url));
  const site = await startSite(t, cluster.url, { '/page': pageFor(proxy.url, html), '/app.js': script });
  const context = await browser.newContext();
  t.teardown(() => context.close());
  const page = await context.newPage();
  const problems: string[] = [];
  page.on('pageerror', (error) => void problems.push(String(error)));
  page.on('console', (message) => {
    if (isProblem?.test(message.text())) problems.push(message.text());
  });
  await page.goto(`${site.url}/page${hash && `#${hash}`}`);
  await page.waitForFunction((name) => name in globalThis, readyGlobal);
  return { page, proxy, problems };
}

export async function ask(page: Page, question: string): Promise<void> {
  await page.fill('[name=question]', question);
  await page.click('[type=submit]');
}

/** Waits until the newest answer of the page is `expected`. */
export const waitForAnswer = (page: Page, expected: string) =>
  page.waitForFunction(
    (expected) => Array.from(document.querySelectorAll('.assistant')).at(-1)?.textContent === expected,
    expected,
    { timeout: 30_000 },
  );

/** Asks a question whose answer waits for the test, and waits for its first words. */
async function askAndWait(page: Page, question: string): Promise<void> {
  await ask(page, question);
  await waitForAnswer(page, 'Because ');
}

/**
 * Adds the tests that every client passes: reload, hidden tab, stop, and a replica that is killed.
 * @param afterAnswer checks a page after an answer that was reloaded and cut
 */
export function testPages(
  t: Test,
  site: ClientSite,
  afterAnswer: (t: Test, opened: ClientPage) => void | Promise<void> = () => {},
): void {
  const { cluster } = site;

  t.test('a reload, and a hidden tab whose connection is cut', async (t) => {
    const opened = await openClientPage(t, site, 'reload');
    const { page, proxy, problems } = opened;
    await askAndWait(page, 'reload');
    // The text may come from the storage of the page. A connection that is cut before its head has nothing to come back to.
    const isJoin = (response: Response) => response.request().method() === 'GET' && /\/agui\b/.test(response.url());
    await Promise.all([page.waitForResponse(isJoin), page.reload()]);
    await waitForAnswer(page, 'Because ');
    await whileFrozen(page, async () => {
      proxy.cut();
      await finish(cluster, 'reload');
    });
    await waitForAnswer(page, 'Because of light.');
    await afterAnswer(t, opened);
    t.equal(callsOf(cluster, 'reload').length, 1, 'one provider call');
    t.equal(await page.locator('.assistant').count(), 1, 'one message');
    t.same(problems, []);
  });

  t.test('stop ends the call, also after a cut', async (t) => {
    const { page, proxy } = await openClientPage(t, site, 'stop');
    await askAndWait(page, 'stop');
    proxy.cut();
    await page.click('[type=button]');
    await (await callOf(cluster, 'stop')).closed;
    t.equal(callsOf(cluster, 'stop').length, 1);
  });

  t.test('kill -9 of the serving replica', async (t) => {
    const { page, proxy, problems } = await openClientPage(t, site, 'kill');
    await askAndWait(page, 'kill');
    const serving = await moveToOtherReplica(cluster, proxy);
    serving.child.kill('SIGKILL');
    await finish(cluster, 'kill');
    await waitForAnswer(page, 'Because of light.');
    t.equal(callsOf(cluster, 'kill').length, 1, 'one provider call');
    t.equal(await page.locator('.error').count(), 0);
    t.same(problems, []);
  });
}
