import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { EventSource } from 'eventsource';
import t, { type Test } from 'tap';
import ts from 'typescript';
import { launch, noBrowser } from './browser.ts';
import { bellaAt, serve } from './helper.ts';
import { noNginx, startNginx } from './nginx.ts';
import { completeAnswer, startUpstream } from './upstream.ts';

/** What the README shows runs as it stands there. */

const README = readFileSync('README.md', 'utf8');
const HOST = 'http://localhost:3000';
const blocks = (language: string) =>
  [...README.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map((match) => match[1] as string);
const snippet = (language: string, mark: string) => {
  const found = blocks(language).filter((block) => block.includes(mark));
  if (found.length !== 1) throw new Error(`${found.length} ${language} blocks with ${mark}`);
  return found[0] as string;
};

/** A module of the README, pointed at `url`, where packages are found. */
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

t.test('every curl line', async (t) => {
  const lines = blocks('sh').filter((block) => block.startsWith('curl'));
  t.equal(lines.length, 2);
  const { url } = await serve(t);
  for (const line of lines) {
    const { stdout } = await promisify(execFile)('sh', ['-c', line.replace(HOST, url)]);
    t.match(stdout, /"type":"end"/, line.trim());
  }
});

t.test('the OpenAI SDK pointed at the service', async (t) => {
  const { url } = await serve(t);
  const program = snippet('js', "from 'openai'").replace(HOST, url);
  t.ok(program.trim().split('\n').length <= 5, 'four lines and the import');
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program]);
  t.match(stdout, /You asked: “hello”.*ask again/s);
});

t.test('the page', { skip: noBrowser, timeout: 60_000 }, async (t) => {
  const { url } = await serve(t);
  const page = await (await launch(t)).newPage();
  await page.route(`${url}/page`, (route) =>
    route.fulfill({ contentType: 'text/html', body: snippet('html', 'EventSource') }),
  );
  await page.goto(`${url}/page`);
  await page.waitForFunction(() =>
    (globalThis as unknown as { answer: { textContent: string } }).answer.textContent.includes('ask again'),
  );
  t.match(await page.innerText('#answer'), /Why is the sky blue/);
});

t.test('a conversation with memory', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('I am ', 'Sluice.'));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  Object.assign(globalThis, { EventSource: absoluteEventSource(url) });
  const { say } = await importSnippet(t, snippet('js', 'export async function say'), url);
  let seen = '';
  t.equal(await say?.('Who are you?', (text: string) => (seen += text)), 'I am Sluice.');
  t.equal(seen, 'I am Sluice.');
  await say?.('And me?', () => {});
  t.same(
    JSON.parse((await upstream.call(2)).body).messages.map(({ content }: { content: string }) => content),
    ['Who are you?', 'I am Sluice.', 'And me?'],
  );
});

t.test('a component of React', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('Because ', 'of light.'));
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  let open = 0;
  Object.assign(globalThis, {
    IS_REACT_ACT_ENVIRONMENT: true,
    EventSource: class extends absoluteEventSource(url) {
      constructor(path: string) {
        super(path);
        open += 1;
      }
      override close() {
        if (this.readyState !== this.CLOSED) open -= 1;
        super.close();
      }
    },
  });
  const { Answer } = await importSnippet(t, snippet('jsx', 'useEffect'), url);
  const { act, createElement } = await import('react');
  // @ts-expect-error it has no types
  const { create } = await import('react-test-renderer');
  let root: { toJSON(): { children: string[] | null }; unmount(): void } | undefined;
  await act(async () => {
    root = create(createElement(Answer as never, { question: 'Why?' } as never));
  });
  while (root?.toJSON().children?.join('') !== 'Because of light.') {
    await act(() => new Promise((resolve) => setTimeout(resolve, 10)));
  }
  t.pass('the whole answer');
  await act(async () => root?.unmount());
  t.equal(open, 0, 'nothing is left open');
});

t.test('a backend that mints tickets', async (t) => {
  const file = join(t.testdir(), 'sluice.yaml');
  writeFileSync(file, `keys: [{ name: web, sha256: "${createHash('sha256').update('sk-web').digest('hex')}" }]\n`);
  const { url } = await serve(t, { env: { CONFIG_FILE: file } });
  const { mintTicket } = await importSnippet(t, snippet('js', 'mintTicket'), url);
  const ticket = await mintTicket?.('sk-web');
  t.equal((await fetch(`${url}/ask/stream?question=hi`)).status, 401);
  const response = await fetch(`${url}/ask/stream?question=hi&ticket=${ticket}`);
  t.match(await response.text(), /"type":"end"/);
});

t.test('the configuration file is a right one, and the test command stands there', async (t) => {
  const file = join(t.testdir(), 'sluice.yaml');
  writeFileSync(file, snippet('yaml', 'providers:'));
  const { app } = await serve(t, { env: { CONFIG_FILE: file, BELLA_API_KEY: 'k' } });
  t.ok(app.llm.models.includes('default'));
  t.ok(blocks('sh').includes('npm ci && npm test\n'));
});

t.test(
  'the quick start: the page, behind its nginx, with a Bella behind it',
  { skip: noNginx || noBrowser, timeout: 60_000 },
  async (t) => {
    const upstream = await startUpstream(t, completeAnswer('Through ', 'the gateway.'));
    const { url } = await serve(t, { env: bellaAt(upstream.url, { TRUST_PROXY: '1' }) });
    const [, server = ''] = /^ {3}```nginx\n(.*?)^ {3}```/ms.exec(readFileSync('docs/quickstart.md', 'utf8')) ?? [];
    t.match(server, 'proxy_buffering off');
    const whole = `error_log /dev/stderr; events {} http { access_log /dev/stdout; ${server} }`;
    const gateway = await startNginx(t, whole, (text) => text.replace('http://127.0.0.1:3000', url));
    const page = await (await launch(t)).newPage();
    await page.goto(gateway.url);
    await page.fill('#question', 'Hello?');
    await page.press('#question', 'Enter');
    await page.waitForSelector('.turn.assistant[aria-busy="false"]');
    t.equal(await page.innerText('.turn.assistant .text'), 'Through the gateway.');
  },
);

t.test('every link of the documents leads somewhere', async (t) => {
  const files = execFileSync('git', ['ls-files', '*.md'], { encoding: 'utf8' }).trim().split('\n');
  const known = new Set(execFileSync('git', ['ls-files'], { encoding: 'utf8' }).trim().split('\n'));
  for (const file of files) {
    for (const [, target = ''] of readFileSync(file, 'utf8').matchAll(
      /(?:\]\(|src="|srcset=")(?!https?:|#)([^)#"\s]+)/g,
    )) {
      const path = join(file, '..', target);
      t.ok(known.has(path) || [...known].some((one) => one.startsWith(`${path}/`)), `${file}: ${target}`);
    }
  }
});

/** An EventSource of a page at `url`. */
function absoluteEventSource(url: string): typeof EventSource {
  return class extends EventSource {
    constructor(path: string) {
      super(new URL(path, url));
    }
  } as unknown as typeof EventSource;
}
