import { execFile, execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { EventSource } from 'eventsource';
import t, { type Test } from 'tap';
import ts from 'typescript';
import { launch, noBrowser } from './browser.ts';
import { codeBlock, codeBlocks } from './code-blocks.ts';
import { bellaAt, serve, sha256, writeConfig } from './helper.ts';
import { noNginx, startNginx } from './nginx.ts';
import { completeAnswer, startUpstream } from './upstream.ts';

/** Runs the examples of the README and of the quick start unchanged, except for their host. `readme-pages` has those of a browser. */

const README = readFileSync('README.md', 'utf8');
const HOST = 'http://localhost:3000';
const blocks = (language: string) => codeBlocks(README, language);
const snippet = (language: string, mark: string) => codeBlock(README, language, mark);

/** Imports a module of the README with `url` as its host, from a folder in which packages are found. */
async function importSnippet(
  t: Test,
  text: string,
  url: string,
): Promise<Record<string, (...args: unknown[]) => unknown>> {
  const file = join(t.testdir(), 'snippet.mjs');
  const absolute = text.replaceAll(HOST, url).replace(/(fetch|EventSource)\('\//g, `$1('${url}/`);
  const { outputText } = ts.transpileModule(absolute, {
    compilerOptions: { jsx: ts.JsxEmit.ReactJSX, module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ESNext },
  });
  writeFileSync(file, outputText);
  return import(pathToFileURL(file).href);
}

t.test('every curl command of the README returns a complete stream', async (t) => {
  const lines = blocks('sh').filter((block) => block.startsWith('curl'));
  t.equal(lines.length, 2, 'the README has two curl commands');
  const { url } = await serve(t);
  for (const line of lines) {
    const { stdout } = await promisify(execFile)('sh', ['-c', line.replace(HOST, url)]);
    t.match(stdout, /"type":"end"/, line.trim());
  }
});

t.test('the OpenAI SDK example of the README prints an answer', async (t) => {
  const { url } = await serve(t);
  const program = snippet('js', "from 'openai'").replace(HOST, url);
  t.ok(program.trim().split('\n').length <= 5, 'the example has at most five lines');
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program]);
  t.match(stdout, /You asked: “hello”.*ask again/s, 'the program prints the answer');
});

t.test('the conversation example of the README sends earlier questions and answers', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('I am ', 'Sluice.'));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  Object.assign(globalThis, { EventSource: absoluteEventSource(url) });
  const { say } = await importSnippet(t, snippet('js', 'export async function say'), url);
  let received = '';
  t.equal(
    await say?.('Who are you?', (text: string) => (received += text)),
    'I am Sluice.',
    'say() resolves with the answer',
  );
  t.equal(received, 'I am Sluice.', 'the deltas make the answer');
  await say?.('And me?', () => {});
  t.same(
    JSON.parse((await upstream.call(2)).body).messages.map(({ content }: { content: string }) => content),
    ['Who are you?', 'I am Sluice.', 'And me?'],
    'the prompt has the whole conversation',
  );
  await t.rejects(async () => say?.('x'.repeat(2_000_000), () => {}), /too large/i, 'a refusal is an error');
  t.equal(await say?.('Still there?', () => {}), 'I am Sluice.', 'a refused question is not kept');
});

t.test('the conversation example of the README asks several questions with one ticket', async (t) => {
  const file = writeConfig(t, `keys: [{ name: web, sha256: "${sha256('sk-web')}" }]\n`);
  const { url } = await serve(t, { env: { CONFIG_FILE: file } });
  Object.assign(globalThis, { EventSource: absoluteEventSource(url) });
  const modules = snippet('js', 'mintTicket') + snippet('js', 'export async function say');
  const { mintTicket, say } = await importSnippet(t, modules, url);
  const ticket = await mintTicket?.('sk-web', 'visitor 1');
  await t.rejects(async () => say?.('hi', () => {}), /Authorization/, 'a question without a ticket');
  t.match(await say?.('hi', () => {}, ticket), /You asked: “hi”/, 'the first question');
  t.match(await say?.('and me?', () => {}, ticket), /You asked: “and me\?”/, 'the second question, after a refusal');
});

t.test('the React component of the README shows the answer and closes its EventSource', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('Because ', 'of light.'));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  let openSources = 0;
  Object.assign(globalThis, {
    IS_REACT_ACT_ENVIRONMENT: true,
    EventSource: class extends absoluteEventSource(url) {
      constructor(path: string) {
        super(path);
        openSources += 1;
      }
      override close() {
        if (this.readyState !== this.CLOSED) openSources -= 1;
        super.close();
      }
    },
  });
  const { Answer } = await importSnippet(t, snippet('jsx', 'useEffect'), url);
  const { act, createElement } = await import('react');
  // @ts-expect-error the package has no types
  const { create } = await import('react-test-renderer');
  let root: { toJSON(): { children: string[] | null }; unmount(): void } | undefined;
  await act(async () => {
    root = create(createElement(Answer as never, { question: 'Why?', id: 'one' } as never));
  });
  while (root?.toJSON().children?.join('') !== 'Because of light.') {
    await act(() => new Promise((resolve) => setTimeout(resolve, 10)));
  }
  t.pass('the component shows the complete answer');
  await act(async () => root?.unmount());
  t.equal(openSources, 0, 'no EventSource is open after the unmount');
});

t.test('the backend example of the README creates a ticket that starts a stream', async (t) => {
  const file = writeConfig(t, `keys: [{ name: web, sha256: "${sha256('sk-web')}" }]\n`);
  const { url } = await serve(t, { env: { CONFIG_FILE: file } });
  const { mintTicket } = await importSnippet(t, snippet('js', 'mintTicket'), url);
  const ticket = await mintTicket?.('sk-web');
  t.equal((await fetch(`${url}/ask/stream?question=hi`)).status, 401, 'a question without a ticket');
  const response = await fetch(`${url}/ask/stream?question=hi&ticket=${ticket}`);
  t.match(await response.text(), /"type":"end"/, 'a question with the ticket');
});

t.test('the configuration example of the README is valid, and the README names the test command', async (t) => {
  const file = writeConfig(t, snippet('yaml', 'providers:'));
  const { app } = await serve(t, { env: { CONFIG_FILE: file, BELLA_API_KEY: 'k' } });
  t.ok(app.llm.models.includes('default'), 'the models of the example are loaded');
  t.ok(blocks('sh').includes('npm ci && npm test\n'), 'the test command');
});

t.test(
  'the nginx configuration of the quick start passes an answer to the page',
  { skip: noNginx || noBrowser, timeout: 60_000 },
  async (t) => {
    const upstream = await startUpstream(t, completeAnswer('Through ', 'the gateway.'));
    const { url } = await serve(t, { env: bellaAt(upstream.url, { TRUST_PROXY: '1' }) });
    const server = codeBlock(
      readFileSync('docs/quickstart.md', 'utf8'),
      'nginx',
      'location / {\n    proxy_pass http://127.0.0.1:3000;',
    );
    t.match(server, 'proxy_buffering off', 'the quick start has a server block');
    const configuration = `error_log /dev/stderr; events {} http { access_log /dev/stdout; ${server} }`;
    const gateway = await startNginx(t, configuration, (text) => text.replace('http://127.0.0.1:3000', url));
    const page = await (await launch(t)).newPage();
    await page.goto(gateway.url);
    await page.fill('#question', 'Hello?');
    await page.press('#question', 'Enter');
    await page.waitForSelector('.turn.assistant[aria-busy="false"]');
    t.equal(await page.innerText('.turn.assistant .text'), 'Through the gateway.', 'the page shows the answer');
  },
);

t.test('every relative link of the documents leads to a file or folder', async (t) => {
  const files = execFileSync('git', ['ls-files', '*.md'], { encoding: 'utf8' }).trim().split('\n');
  const trackedFiles = new Set(execFileSync('git', ['ls-files'], { encoding: 'utf8' }).trim().split('\n'));
  for (const file of files) {
    for (const [, target = ''] of readFileSync(file, 'utf8').matchAll(
      /(?:\]\(|src="|srcset=")(?!https?:|#)([^)#"\s]+)/g,
    )) {
      const path = join(file, '..', target);
      t.ok(
        trackedFiles.has(path) || [...trackedFiles].some((name) => name.startsWith(`${path}/`)),
        `${file} links to ${target}`,
      );
    }
  }
});

/** Returns an EventSource class that resolves paths like a page at `url`. */
function absoluteEventSource(url: string): typeof EventSource {
  return class extends EventSource {
    constructor(path: string) {
      super(new URL(path, url));
    }
  } as unknown as typeof EventSource;
}
