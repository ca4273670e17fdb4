/// <reference lib="dom" />
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Browser, Page } from 'playwright-core';
import t, { type Test } from 'tap';
import { launch, noBrowser } from './browser.ts';
import { bellaAt, serve, sha256, until, writeConfig } from './helper.ts';
import { type Call, chunk, DONE, STOP, sse, startUpstream, text } from './upstream.ts';

/** Uses the playground in a real Chromium. With `SCREENSHOTS=docs/images` it also takes the screenshots. */

const AXE = readFileSync('node_modules/axe-core/axe.min.js', 'utf8');
const questionOf = ({ body }: Call) =>
  (JSON.parse(body).messages as { role: string; content: string }[]).at(-1)?.content;

const MARKDOWN = `Like **rivers**, streams need gates.

| | SSE | WebSocket |
|---|---|---|
| direction | one | both |

\`\`\`js
const source = new EventSource('/ask/stream?question=hi');
\`\`\`
`;

/** Answers a question according to the words in it. */
async function play(call: Call): Promise<void> {
  const { response } = call;
  const question = questionOf(call) ?? '';
  if (question.includes('fail')) {
    response.writeHead(500).end();
    return;
  }
  sse(response);
  if (question.includes('think')) response.write(chunk({ reasoning_content: 'Let me think about gates.' }));
  if (question.includes('tool')) {
    response.write(
      chunk({ tool_calls: [{ index: 0, id: 'c', function: { name: 'weather', arguments: '{"city":' } }] }),
    );
    response.write(chunk({ tool_calls: [{ index: 0, function: { arguments: '"Oslo"}' } }] }));
  }
  if (question.includes('evil')) {
    response.write(text('<img src=x onerror="window.hacked=1"> <script>window.hacked=1</script>'));
    response.write(
      text('[a](javascript:window.hacked=1) <b onclick="window.hacked=1">bold</b> <style>*{display:none}</style>'),
    );
  }
  if (question.includes('markdown')) response.write(text(MARKDOWN));
  const words = question.includes('endless') ? 10_000 : question.includes('long') ? 120 : 6;
  for (let i = 0; i < words && !response.destroyed; i++) {
    response.write(text(`word${i} `));
    await sleep(30); // Paces the answer, so that a test can act while it runs.
  }
  response.write(chunk({}, 'stop', { usage: { prompt_tokens: 3, completion_tokens: words } }));
  response.end(STOP + DONE);
}

interface SetUp {
  readonly page: Page;
  readonly url: string;
  readonly calls: Call[];
  /** Errors of the page and its console. */
  readonly problems: string[];
}

/** Starts a service and opens its playground in a browser context of its own. */
async function setUp(t: Test, browser: Browser, env: Record<string, string> = {}, options = {}): Promise<SetUp> {
  const upstream = await startUpstream(t, play);
  const { url } = await serve(t, { env: bellaAt(upstream.url, env) });
  const context = await browser.newContext({ viewport: { width: 1_100, height: 800 }, ...options });
  t.teardown(() => context.close());
  const page = await context.newPage();
  const problems: string[] = [];
  page.on('pageerror', (error) => problems.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error' && !message.text().includes('Failed to load resource'))
      problems.push(message.text());
  });
  await page.goto(url);
  return { page, url, calls: upstream.calls, problems };
}

async function ask(page: Page, question: string): Promise<void> {
  await page.fill('#question', question);
  await page.press('#question', 'Enter');
}

const lastTurn = (page: Page) => page.locator('.turn.assistant').last();

/** Waits until the last answer has ended and returns its text. */
async function waitForAnswer(page: Page): Promise<string> {
  await page.waitForFunction(() => {
    const turns = document.querySelectorAll('.turn.assistant');
    return turns.length > 0 && turns[turns.length - 1]?.getAttribute('aria-busy') === 'false';
  });
  return (await lastTurn(page).locator('.text').innerText()).trim();
}

/** Returns the text of an answer with so many words. */
const words = (count: number) => Array.from({ length: count }, (_, i) => `word${i}`).join(' ');

t.test('the playground', { skip: noBrowser, timeout: 120_000 }, async (t) => {
  const browser = await launch(t);
  t.jobs = 3;

  t.test('a second question is sent with the first question and its answer', async (t) => {
    const { page, calls, problems } = await setUp(t, browser);
    await ask(page, 'first');
    t.equal(await waitForAnswer(page), words(6), 'the first answer');
    await page.fill('#question', 'second');
    await page.click('#send');
    await page.waitForFunction(() => document.querySelectorAll('.turn.assistant').length === 2);
    t.equal(await waitForAnswer(page), words(6), 'the second answer');
    t.same(
      JSON.parse(calls[1]?.body ?? '').messages.map(({ role, content }: Record<string, string>) => [
        role,
        content?.trim(),
      ]),
      [
        ['user', 'first'],
        ['assistant', words(6)],
        ['user', 'second'],
      ],
      'the prompt has the whole conversation',
    );
    t.match(await page.innerText('#first'), /^\d+ ms$/, 'time to first token');
    t.equal(await page.innerText('#count'), '6', 'the token count of the provider');
    t.match(await page.innerText('#status'), /complete/, 'the status');
    await page.click('#new');
    t.equal(await page.locator('.turn').count(), 0, 'a new conversation is empty');
    t.ok(await page.isVisible('#welcome'), 'a new conversation shows the welcome text');
    t.same(problems, [], 'the page has no error');
  });

  t.test('reasoning is folded, tool calls are shown, Markdown and code are rendered', async (t) => {
    const { page, problems } = await setUp(t, browser);
    await ask(page, 'think with a tool, in markdown');
    await waitForAnswer(page);
    const turn = lastTurn(page);
    t.notOk(await turn.locator('.reasoning p').isVisible(), 'reasoning is folded');
    await turn.locator('.reasoning summary').click();
    t.equal(await turn.locator('.reasoning p').innerText(), 'Let me think about gates.', 'reasoning');
    t.equal(await turn.locator('.tool summary').innerText(), 'Calls weather', 'name of the tool');
    await turn.locator('.tool summary').click();
    t.equal(await turn.locator('.tool pre').innerText(), '{"city":"Oslo"}', 'arguments of the tool');
    t.equal(await turn.locator('.text strong').innerText(), 'rivers', 'bold text');
    t.equal(await turn.locator('.text table tr').count(), 2, 'a table');
    t.match(await turn.locator('.text pre code').innerText(), /EventSource/, 'a code block');
    t.same(problems, [], 'the page has no error');
  });

  t.test('HTML and links of an answer run no script', async (t) => {
    const { page } = await setUp(t, browser);
    await ask(page, 'evil');
    await waitForAnswer(page);
    await page.locator('.text b').click();
    for (const link of await page.locator('.text a').all()) await link.click({ timeout: 500 }).catch(() => {});
    await sleep(200); // An event handler of the answer would have run by now.
    t.equal(await page.evaluate(() => (globalThis as { hacked?: number }).hacked), undefined, 'no script has run');
    t.equal(
      await page.locator('.text img, .text script, .text style, .text [onclick], .text a[href^="javascript"]').count(),
      0,
      'unsafe elements and attributes are removed',
    );
  });

  t.test('the stop button and Escape stop the answer', async (t) => {
    const { page, calls } = await setUp(t, browser);
    for (const stop of [() => page.click('#stop'), () => page.keyboard.press('Escape')]) {
      await ask(page, 'long');
      await page.waitForFunction(() => document.querySelector('.running .text')?.textContent?.includes('word3'));
      await stop();
      const stoppedText = await waitForAnswer(page);
      t.ok(
        words(120).startsWith(stoppedText.replace(/\s+/g, ' ')) && stoppedText.length < 600,
        'the text received before the stop stays',
      );
      await calls.at(-1)?.closed;
      t.match(await page.innerText('#status'), /Stopped/, 'the status');
    }
  });

  t.test('after a disconnect the page reconnects and shows the complete answer', async (t) => {
    const { page, calls } = await setUp(t, browser);
    await ask(page, 'long');
    await page.waitForFunction(() => document.querySelector('.running .text')?.textContent?.includes('word3'));
    await page.click('#plug');
    t.match(await page.innerText('#plug'), /Disconnected/, 'the button');
    t.match(await page.innerText('#status'), /the page resumes it/, 'the status');
    t.equal((await waitForAnswer(page)).replace(/\s+/g, ' '), words(120), 'the complete answer');
    t.equal(calls.length, 1, 'the upstream is called once');
  });

  t.test('a reload in the middle of an answer reads it again and keeps the conversation', async (t) => {
    const { page, calls, problems } = await setUp(t, browser);
    let posts = 0;
    page.on('request', (request) => {
      if (request.method() === 'POST') posts += 1;
    });
    await ask(page, 'first');
    await waitForAnswer(page);
    await ask(page, 'long');
    await page.waitForFunction(() => document.querySelector('.running .text')?.textContent?.includes('word3'));
    await page.reload();
    await page.waitForSelector('.running .text');
    t.equal((await waitForAnswer(page)).replace(/\s+/g, ' '), words(120), 'the complete answer');
    t.same(await page.locator('.turn.user').allInnerTexts(), ['first', 'long'], 'the questions');
    t.equal(calls.length, 2, 'one call for each question');
    t.equal(posts, 2, 'a known answer is read by its URL, so that it is not asked for when it has expired');
    await page.reload();
    t.equal((await waitForAnswer(page)).replace(/\s+/g, ' '), words(120), 'the answer after another reload');
    await ask(page, 'third');
    await page.waitForFunction(() => document.querySelectorAll('.turn.assistant').length === 3);
    await waitForAnswer(page);
    t.equal(JSON.parse(calls[2]?.body ?? '').messages.length, 5, 'the prompt has the whole conversation');
    await page.click('#new');
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll('#model option').length > 0);
    t.equal(await page.locator('.turn').count(), 0, 'a new conversation stays empty');
    t.same(problems, [], 'the page has no error');
  });

  t.test('a reload before the service has answered asks with the same key', async (t) => {
    const { page, calls } = await setUp(t, browser);
    const keys: (string | undefined)[] = [];
    await page.route('**/streams', async (route) => {
      keys.push(route.request().headers()['idempotency-key']);
      const response = await route.fetch();
      // The page is reloaded before it gets the first response.
      if (keys.length > 1) await route.fulfill({ response });
    });
    await ask(page, 'once');
    await until(() => calls.length === 1, 'the provider is called');
    await page.reload();
    t.equal(await waitForAnswer(page), words(6), 'the answer');
    t.equal(keys.length, 2, 'two requests');
    t.equal(keys[0], keys[1], 'the same key');
    t.equal(calls.length, 1, 'one call');
  });

  t.test('a second tab reads the same stream', async (t) => {
    const { page, calls } = await setUp(t, browser);
    await ask(page, 'long');
    await page.waitForSelector('#tab[aria-disabled="false"]');
    const [tab] = await Promise.all([page.context().waitForEvent('page'), page.click('#tab')]);
    t.equal((await waitForAnswer(tab)).replace(/\s+/g, ' '), words(120), 'the second tab has the complete answer');
    t.equal((await waitForAnswer(page)).replace(/\s+/g, ' '), words(120), 'the first tab has the complete answer');
    t.equal(calls.length, 1, 'the upstream is called once');
    t.notMatch(tab.url(), /streams/, 'the address of the tab has no ticket');
    await tab.reload();
    t.equal((await waitForAnswer(tab)).replace(/\s+/g, ' '), words(120), 'the second tab after a reload');
    t.equal(calls.length, 1, 'the upstream is still called once');
  });

  t.test('six tabs answer at the same time, and the stop button of one stops its answer', async (t) => {
    const { page, url, calls } = await setUp(t, browser);
    const others = await Promise.all(Array.from({ length: 5 }, () => page.context().newPage()));
    await Promise.all(others.map((tab) => tab.goto(url)));
    const tabs = [page, ...others];
    for (const [i, tab] of tabs.entries()) await ask(tab, i === 0 ? 'endless' : `long ${i}`);
    const hasText = () => document.querySelector('.running .text')?.textContent?.includes('word3');
    await page.waitForFunction(hasText);
    await page.click('#stop');
    await calls.find((call) => questionOf(call) === 'endless')?.closed;
    t.match(await page.innerText('#status'), /Stopped/, 'the status');
    const texts = await Promise.all(others.map(waitForAnswer));
    for (const text of texts) t.equal(text.replace(/\s+/g, ' '), words(120), 'another tab has the complete answer');
    t.equal(calls.length, 6, 'one call for each tab');
  });

  t.test('an answer and its code can be copied, and the numbers are explained', async (t) => {
    const file = writeConfig(
      t,
      'models: [{ name: other, price: { input: 1, output: 2 }, targets: [{ provider: bella, model: m }] }]\n',
    );
    const { page, problems } = await setUp(t, browser, { CONFIG_FILE: file });
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
    const untilCopied = (text: string) =>
      until(async () => (await page.evaluate(() => navigator.clipboard.readText())).trim() === text, `copied: ${text}`);
    const code = "const source = new EventSource('/ask/stream?question=hi');";
    await page.selectOption('#model', 'other');
    await ask(page, 'markdown');
    await waitForAnswer(page);
    const turn = lastTurn(page);
    await turn.getByRole('button', { name: 'Copy code' }).click();
    await untilCopied(code);
    await turn.getByRole('button', { name: 'Copy answer' }).click();
    await untilCopied((MARKDOWN + words(6)).trim());
    await page.evaluate(() => {
      navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed'));
    });
    await turn.locator('.code button').click();
    await untilCopied(code);
    t.pass('a page without a clipboard copies by the old command');
    t.match(await page.innerText('#cost'), /^\$0\.0000\d\d$/, 'the cost of the answer');
    await page.click('#meaning summary');
    for (const name of await page.locator('#figures dt').allInnerTexts())
      t.ok((await page.locator('#meaning dt').allInnerTexts()).includes(name), `${name} is explained`);
    await page.reload();
    await page.getByRole('button', { name: 'Copy code' }).waitFor();
    t.equal(await page.getByRole('button', { name: 'Copy answer' }).count(), 1, 'also after a reload');
    t.same(problems, [], 'the page has no error');
  });

  t.test('the selected model is asked, and an error is shown as a sentence', async (t) => {
    const file = writeConfig(t, 'models: [{ name: other, targets: [{ provider: bella, model: small }] }]\n');
    const { page, calls } = await setUp(t, browser, { CONFIG_FILE: file });
    await page.selectOption('#model', 'other');
    await ask(page, 'hello');
    await waitForAnswer(page);
    t.equal(JSON.parse(calls[0]?.body ?? '').model, 'small', 'the selected model is asked');
    await ask(page, 'fail');
    const fault = page.locator('.fault');
    await fault.waitFor();
    t.match(await fault.innerText(), /provider failed/i, 'the error message');
    t.equal(await fault.getAttribute('role'), 'alert', 'the error is announced to screen readers');
  });

  t.test('with authentication the page asks for a key and keeps it for the tab only', async (t) => {
    const file = writeConfig(t, `keys: [{ name: web, sha256: "${sha256('sk-page')}" }]\n`);
    const { page } = await setUp(t, browser, { CONFIG_FILE: file });
    await page.waitForSelector('#key:visible');
    await page.fill('#key', 'wrong');
    await page.press('#key', 'Enter');
    await page.waitForSelector('.fault');
    await page.fill('#key', 'sk-page');
    await page.press('#key', 'Enter');
    await page.waitForSelector('#key-form', { state: 'hidden' });
    await ask(page, 'hello');
    t.equal(await waitForAnswer(page), words(6), 'the answer with the key');
    t.equal(await page.evaluate(() => localStorage.length), 0, 'the key is not in localStorage');
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll('#model option').length > 0);
    t.notOk(await page.isVisible('#key'), 'the key is kept on a reload of the tab');
  });

  const appearances: [name: string, options: object][] = [
    ['light', { colorScheme: 'light' }],
    ['dark', { colorScheme: 'dark' }],
    ['phone', { colorScheme: 'light', viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true }],
  ];
  for (const [name, options] of appearances) {
    t.test(`appearance ${name}: axe has no serious finding, and the page fits the screen`, async (t) => {
      const { page } = await setUp(t, browser, {}, options);
      const findings = async () => {
        await page.evaluate(AXE);
        const { violations } = await page.evaluate(() =>
          (
            globalThis as unknown as {
              axe: { run(): Promise<{ violations: { id: string; impact: string; nodes: { html: string }[] }[] }> };
            }
          ).axe.run(),
        );
        return violations
          .filter(({ impact }) => impact === 'serious' || impact === 'critical')
          .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 100))}`);
      };
      t.same(await findings(), [], 'findings before a question');
      await ask(page, 'think, and show markdown');
      await waitForAnswer(page);
      t.same(await findings(), [], 'findings with an answer');
      const width = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      const { width: screen } = page.viewportSize() as { width: number };
      t.same(width, [screen, screen], 'the page is as wide as the screen');
      if (process.env.SCREENSHOTS) {
        await page.fill('#question', 'And when the river is cut?');
        await page.locator('.reasoning summary').last().click();
        await page.screenshot({ path: join(process.env.SCREENSHOTS, `playground-${name}.png`) });
      }
    });
  }

  t.test('every control can be reached with the Tab key', async (t) => {
    const { page } = await setUp(t, browser);
    const focused = () => page.evaluate(() => document.activeElement?.id);
    const order: (string | undefined)[] = [];
    for (let i = 0; i < 12; i++) {
      await page.keyboard.press('Tab');
      order.push(await focused());
    }
    for (const id of ['model', 'new', 'conversation', 'question', 'send'])
      t.ok(order.includes(id), `${id} gets the focus`);
  });
});
