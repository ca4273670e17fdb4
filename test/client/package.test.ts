import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { load, noClients } from '../clients/packages.ts';
import { codeBlock } from '../code-blocks.ts';
import { bellaAt, build, serve, sha256, writeConfig } from '../helper.ts';
import { startUpstream } from '../upstream.ts';
import { answer, TEXT } from './answers.ts';

/** The client as files: their size, how they are served, and the package with its types. */

const DOCS = readFileSync('docs/clients/sluice-client.md', 'utf8');
const run = promisify(execFile);

t.jobs = 2;

t.test('the modules are small when minified', { skip: noClients }, async (t) => {
  const { build } = await load<{ build(options: object): Promise<{ outputFiles: { text: string }[] }> }>('esbuild');
  for (const [name, most] of [
    ['client', 3 * 1024],
    ['client-ai', 4 * 1024],
  ] as const) {
    const source = readFileSync(`build/client/${name}.js`, 'utf8');
    const { outputFiles } = await build({
      ...{ stdin: { contents: source }, bundle: true, external: ['./client.js'], write: false },
      ...{ minify: true, format: 'esm', target: 'es2022' },
    });
    const bytes = Buffer.byteLength(outputFiles[0]?.text ?? '');
    t.ok(bytes > 1_000 && bytes <= most, `${name}: ${bytes} of ${most} bytes`);
    t.notMatch(source, /\/\*|^\s*\/\//m, `${name} is served without comments`);
    t.notMatch(source, /from ['"](?!\.\/client\.js)/, `${name} has no dependency`);
  }
});

t.test('the modules are served to everybody, and can be cached', async (t) => {
  const config = writeConfig(t, `keys: [{ name: web, sha256: "${sha256('sk')}" }]\n`);
  const env = { CONFIG_FILE: config, BASE_PATH: '/llm', PLAYGROUND: 'false', CORS_ORIGINS: 'https://app.example' };
  const app = await build(t, { env });
  for (const name of ['client.js', 'client-ai.js']) {
    const url = `/llm/${name}`;
    const first = await app.inject({ url, headers: { origin: 'https://app.example' } });
    t.equal(first.statusCode, 200);
    t.equal(first.body, readFileSync(`build/client/${name}`, 'utf8'));
    t.match(first.headers, {
      'content-type': 'text/javascript; charset=utf-8',
      'cache-control': 'public, max-age=3600',
      'access-control-allow-origin': 'https://app.example',
      etag: /^"[\w-]{43}"$/,
    });
    const { etag } = first.headers as { etag: string };
    for (const known of [etag, `W/${etag}`, `"other", ${etag}`, '*']) {
      const again = await app.inject({ url, headers: { 'if-none-match': known } });
      t.match(again, { statusCode: 304, body: '', headers: { etag } }, known);
    }
    t.equal((await app.inject({ url, headers: { 'if-none-match': '"other"' } })).statusCode, 200, 'another version');
    t.match(await app.inject({ url, method: 'HEAD' }), { statusCode: 200, body: '', headers: { etag } });
    t.equal((await app.inject({ url, headers: { origin: 'https://evil.example' } })).statusCode, 403);
    t.equal((await app.inject({ url, method: 'POST' })).statusCode, 405);
  }
});

/** Makes a project that has the package installed. Its files are those of the test build. */
function createProject(t: Test, files: Record<string, string>): string {
  const folder = t.testdir({ node_modules: { sluice: {} }, ...files });
  const installed = join(folder, 'node_modules/sluice');
  writeFileSync(join(installed, 'package.json'), readFileSync('package.json'));
  mkdirSync(join(installed, 'dist'));
  symlinkSync(join(process.cwd(), 'build/client'), join(installed, 'dist/client'), 'junction');
  return folder;
}

t.test('the package can be imported in Node, as the documents show', async (t) => {
  const upstream = await startUpstream(t, answer);
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const example = codeBlock(DOCS, 'js', "from 'sluice/client'").replace('http://localhost:3000', url);
  const folder = createProject(t, { 'package.json': '{"type":"module"}', 'example.js': example });
  const { stdout } = await run(process.execPath, [join(folder, 'example.js')]);
  t.equal(stdout, TEXT);
});

const TYPED = `
import { type Answer, type AnswerError, type EndEvent, ask, read } from 'sluice/client';
import { sluiceTransport } from 'sluice/client/ai';

const answer: Answer = ask('hi', { key: 'k', ticket: async () => 't', model: 'm', signal: new AbortController().signal });
answer.addEventListener('delta', ({ detail }) => detail.content.toUpperCase());
answer.addEventListener('error', ({ detail: { code, retryAfter = 0 } }) => code.length + retryAfter);
answer.addEventListener('change', () => {});
const end: EndEvent = await answer.answer;
export const cost: number | undefined = end.usage?.cost;
for await (const event of ask([{ role: 'user', content: 'hi' }], { stop: ['x'] })) {
  if (event.type === 'tool_call') event.arguments.trim();
  // @ts-expect-error An error is thrown, and not part of the iteration.
  if (event.type === 'error') break;
}
export const failed = answer.answer.catch(({ code, status }: AnswerError) => [code, status]);
if (answer.url) read(answer.url, { ticket: () => 't' }).stop();
// @ts-expect-error The text is read-only.
answer.text = '';
// @ts-expect-error A misspelled option.
ask('hi', { modle: 'm' });
// @ts-expect-error A question belongs to \`ask\`.
read('/streams/x', { model: 'm' });
export const { sendMessages } = sluiceTransport({ body: { model: 'm' } });
`;

t.test('the types are complete, and wrong uses do not compile', async (t) => {
  const folder = createProject(t, { 'package.json': '{"type":"module"}', 'typed.ts': TYPED });
  const tsc = join(process.cwd(), 'node_modules/typescript/bin/tsc');
  const lib = ['ES2022', 'DOM', 'DOM.Iterable', 'DOM.AsyncIterable'];
  const compilerOptions = { module: 'NodeNext', noEmit: true, strict: true, target: 'ES2022', lib, types: [] };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['typed.ts'] }));
  const { stdout } = await run(process.execPath, [tsc, '-p', folder]).catch((error: { stdout: string }) => error);
  t.equal(stdout, '', 'no findings of the compiler');
});
