import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import Fastify from 'fastify';
import fp from 'fastify-plugin';
import t from 'tap';
import authScope from '../plugins/auth/scope.ts';
import { build } from './helper.ts';

/** Import rules, cycles, file sizes, and access to routes. The rules are explained in docs/architecture.md. */

const FOLDERS = ['plugins', 'routes', 'providers', 'scripts'];
const MAX_LINES = 250;
/** Schemas, presets and metric definitions may be longer. */
const DECLARATIVE =
  /^plugins\/config\/schema.*\.ts$|^plugins\/metrics\/|^routes\/.*schemas?\.ts$|^providers\/openai-compatible\.ts$/;

interface Import {
  readonly path: string;
  readonly isTypeOnly: boolean;
}

type Sources = ReadonlyMap<string, string>;

/** Allowed imports of each place; the first matching rule applies. */
const RULES: readonly [from: RegExp, allowed: RegExp][] = [
  [
    /^server\.ts$/,
    /^app\.ts$|^plugins\/config\/|^plugins\/http\/(serialize-error|log-destination|lazy-validators)\.ts$/,
  ],
  [/^app\.ts$/, /^plugins\/|^routes\/|^providers\/types\.ts$/],
  [/^routes\//, /^routes\/|^plugins\/\w+\/api\.ts$/],
  [/^plugins\//, /^plugins\/|^providers\/(types|errors|registry|addresses|proxy)\.ts$/],
  [/^providers\/(types|errors|proxy)\.ts$/, /^$/],
  [/^providers\/addresses\.ts$/, /^providers\/errors\.ts$/],
  [/^providers\/wire\//, /^providers\/(types|errors|addresses|proxy)\.ts$|^providers\/wire\//],
  [/^providers\/registry\.ts$/, /^providers\//],
  [/^providers\//, /^providers\/(types|errors)\.ts$|^providers\/wire\//],
  [/^scripts\//, /^plugins\/(auth|config)\/|^scripts\//],
];

/** Operations that need no key. */
const PUBLIC_PATHS = ['/livez', '/readyz', '/metrics'];

/** The folders that may import a package. */
const PACKAGES: readonly [name: string, folder: RegExp][] = [
  ['undici', /^providers\/wire\//],
  ['eventsource-parser', /^providers\/wire\//],
  ['fastify-sse-v2', /^plugins\/sse\//],
  ['prom-client', /^plugins\/metrics\//],
  ['@fastify/swagger', /^routes\/docs\//],
  ['@fastify/static', /^routes\/playground\//],
  ['yaml', /^plugins\/config\//],
  ['ioredis', /^plugins\/(redis|streams\/redis)\/|^scripts\/usage\.ts$/],
  ['@opentelemetry/api', /^plugins\/tracing\//],
  ['@opentelemetry/sdk-trace-node', /^plugins\/tracing\//],
  ['@opentelemetry/resources', /^plugins\/tracing\//],
  ['@opentelemetry/exporter-trace-otlp-http', /^plugins\/tracing\//],
  ['jose', /^plugins\/auth\//],
  ['rate-limiter-flexible', /^plugins\/limits\//],
];

/**
 * Calls that need a file descriptor and throw when none is free. In a timer, an event handler or a metric they would
 * end the process. `memoryUsage` reads a file, too.
 */
const TAKES_DESCRIPTOR = /\b(memoryUsage|resourceUsage|\w+Sync|getReport)\s*\(/g;
/** Files that make such calls at the start or on SIGHUP, or that catch the error. */
const MAY_TAKE_DESCRIPTORS = [
  'plugins/config/files.ts',
  'plugins/descriptors.ts',
  'plugins/redis/script.ts',
  'providers/wire/network-error.ts',
];

function descriptorUses(files: Sources): string[] {
  return [...files]
    .filter(([file]) => !file.startsWith('scripts/') && !MAY_TAKE_DESCRIPTORS.includes(file))
    .flatMap(([file, text]) => {
      const code = text.replace(/^\s*(\/\/|\/?\*).*/gm, '');
      return [...code.matchAll(TAKES_DESCRIPTOR)].map(([, call]) => `${file} calls ${call}`);
    });
}

function filesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(folder, name));
}

const sources: Sources = new Map(
  ['app.ts', 'server.ts', ...FOLDERS.flatMap(filesIn)].map((file) => [file, readFileSync(file, 'utf8')]),
);

function specifiers(text: string): Import[] {
  return [...text.matchAll(/^(?:import|export)( type)?\b[^;]*?from '([^']+)'|import\('([^']+)'\)/gms)].map(
    ([, type, path, dynamic]) => ({ path: (path ?? dynamic) as string, isTypeOnly: type !== undefined }),
  );
}

function importsOf(file: string, files: Sources): Import[] {
  return specifiers(files.get(file) ?? '')
    .filter(({ path }) => path.startsWith('.'))
    .map(({ path, isTypeOnly }) => ({ path: normalize(join(dirname(file), path)), isTypeOnly }));
}

/** Returns every import that a rule forbids. */
function forbiddenImports(files: Sources): string[] {
  const problems: string[] = [];
  for (const file of files.keys()) {
    const allowed = RULES.find(([from]) => from.test(file))?.[1] ?? /^$/;
    for (const { path, isTypeOnly } of importsOf(file, files)) {
      if (!files.has(path)) problems.push(`${file} imports ${path}, which does not exist`);
      else if (!allowed.test(path)) problems.push(`${file} must not import ${path}`);
      else if (file.startsWith('routes/') && path.startsWith('plugins/') && !isTypeOnly) {
        problems.push(`${file} must import only types from ${path}`);
      }
    }
  }
  return problems;
}

/** Returns one cycle of a graph as text, or undefined. */
function findCycle(nodes: Iterable<string>, edgesOf: (node: string) => Iterable<string>): string | undefined {
  const done = new Set<string>();
  const visit = (node: string, path: readonly string[]): string | undefined => {
    if (path.includes(node)) return [...path.slice(path.indexOf(node)), node].join(' → ');
    if (done.has(node)) return undefined;
    for (const next of edgesOf(node)) {
      const cycle = visit(next, [...path, node]);
      if (cycle) return cycle;
    }
    done.add(node);
    return undefined;
  };
  for (const node of nodes) {
    const cycle = visit(node, []);
    if (cycle) return cycle;
  }
  return undefined;
}

function findFileCycle(files: Sources): string | undefined {
  return findCycle(files.keys(), (file) => importsOf(file, files).map(({ path }) => path));
}

/** Folders import each other through their files. A folder and its own subfolders count as one direction. */
function findFolderCycle(files: Sources): string | undefined {
  const edges = new Map<string, Set<string>>();
  const contains = (outer: string, inner: string) => outer === '.' || inner === outer || inner.startsWith(`${outer}/`);
  for (const file of files.keys()) {
    const from = dirname(file);
    const targets = edges.get(from) ?? new Set();
    edges.set(from, targets);
    for (const { path } of importsOf(file, files)) {
      const to = dirname(path);
      if (!contains(from, to) && !contains(to, from)) targets.add(to);
    }
  }
  return findCycle(edges.keys(), (folder) => edges.get(folder) ?? []);
}

/** Returns files that are too long. */
function longFiles(files: Sources): string[] {
  return [...files]
    .filter(([file, text]) => !DECLARATIVE.test(file) && text.split('\n').length > MAX_LINES + 1)
    .map(([file, text]) => `${file}: ${text.split('\n').length} lines`);
}

t.test('imports follow the rules', async (t) => {
  t.ok(sources.size > 100, `${sources.size} files`);
  t.same(forbiddenImports(sources), []);
});

t.test('neither files nor folders import each other in a cycle', async (t) => {
  t.equal(findFileCycle(sources), undefined);
  t.equal(findFolderCycle(sources), undefined);
});

t.test('packages are imported in their own folders only', async (t) => {
  for (const [file, text] of sources) {
    const used = specifiers(text).map(({ path }) => path);
    for (const [name, folder] of PACKAGES) {
      if (used.some((path) => path === name || path.startsWith(`${name}/`)))
        t.match(file, folder, `${name} in ${file}`);
    }
    if (file.startsWith('providers/')) t.notMatch(used.join(' '), /fastify/, `${file} does not use Fastify`);
    if (file !== 'server.ts' && !file.startsWith('scripts/')) {
      t.notMatch(text, /process\.(env|exit|on)\b/, `${file} does not use the process`);
    }
  }
});

t.test('nothing that runs after the start takes a file descriptor synchronously', async (t) => {
  t.same(descriptorUses(sources), []);
});

t.test('no file with logic is longer than 250 lines', async (t) => {
  t.same(longFiles(sources), []);
});

t.test('every test file runs once', async (t) => {
  const listed = execFileSync('node_modules/.bin/tap', ['list'], { encoding: 'utf8' }).split('\n').filter(Boolean);
  const run = listed.flatMap((file) => {
    if (!file.includes('/groups/')) return [file];
    return [...readFileSync(file, 'utf8').matchAll(/import '..\/(.*)';/g)].map(([, name]) => `build/test/${name}`);
  });
  const files = readdirSync('test', { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.ts') && !file.includes('node_modules'))
    .map((file) => `build/test/${file.replace('.ts', '.js')}`);
  t.same(run.sort(), files.sort());
});

t.test('each rule finds a violation', async (t) => {
  const files = (entries: Record<string, string>): Sources => new Map(Object.entries(entries));
  const upward = files({ 'routes/a.ts': '', 'plugins/b.ts': "import x from '../routes/a.ts';" });
  t.same(forbiddenImports(upward), ['plugins/b.ts must not import routes/a.ts']);
  const value = files({ 'plugins/x/api.ts': '', 'routes/a.ts': "import { y } from '../plugins/x/api.ts';" });
  t.same(forbiddenImports(value), ['routes/a.ts must import only types from plugins/x/api.ts']);
  const inner = files({ 'plugins/x/y.ts': '', 'routes/a.ts': "import type { y } from '../plugins/x/y.ts';" });
  t.same(forbiddenImports(inner), ['routes/a.ts must not import plugins/x/y.ts']);
  t.same(forbiddenImports(files({ 'plugins/x/y.ts': "import './gone.ts';\nimport z from './z.ts';" })), [
    'plugins/x/y.ts imports plugins/x/z.ts, which does not exist',
  ]);
  const cycle = files({ 'plugins/a.ts': "import b from './b.ts';", 'plugins/b.ts': "import a from './a.ts';" });
  t.equal(findFileCycle(cycle), 'plugins/a.ts → plugins/b.ts → plugins/a.ts');
  const folders = files({
    'plugins/a/one.ts': "import x from '../b/x.ts';",
    'plugins/b/x.ts': '',
    'plugins/b/y.ts': "import two from '../a/two.ts';",
    'plugins/a/two.ts': '',
  });
  t.equal(findFileCycle(folders), undefined);
  t.equal(findFolderCycle(folders), 'plugins/a → plugins/b → plugins/a');
  const timer = files({ 'plugins/a.ts': 'setInterval(() => process.memoryUsage(), 1);\n// readFileSync(x)' });
  t.same(descriptorUses(timer), ['plugins/a.ts calls memoryUsage']);
  t.same(descriptorUses(files({ 'providers/a.ts': "readFileSync('x')" })), ['providers/a.ts calls readFileSync']);
  t.same(longFiles(files({ 'plugins/long.ts': '\n'.repeat(251) })), ['plugins/long.ts: 252 lines']);
});

t.test('a route of the api scope without config.access fails the start', async (t) => {
  const app = Fastify();
  t.teardown(() => app.close());
  app.register(
    fp(async (root) => void root.decorate('auth', { authenticate: async () => {} } as never), { name: 'auth' }),
  );
  app.register(async (scope) => {
    await scope.register(authScope);
    scope.get('/open', async () => 'secret');
  });
  await t.rejects(async () => app.ready(), /GET \/open declares no config\.access/);
});

t.test('every route of the service that is not public asks for a key', async (t) => {
  const key = 'sk-test';
  const sha256 = createHash('sha256').update(key).digest('hex');
  const file = `${t.testdir({ 'c.yaml': `keys: [{ name: a, sha256: ${sha256} }]` })}/c.yaml`;
  const app = await build(t, { env: { CONFIG_FILE: file } });
  const { paths } = (await app.inject('/openapi.json')).json() as { paths: Record<string, object> };
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => ({ path, method: method.toUpperCase() as 'GET' })),
  );
  t.ok(operations.length > 10, `${operations.length} operations`);
  for (const { method, path } of operations) {
    const { statusCode } = await app.inject({ method, url: path.replace(/\{\w+\}/, 'x') });
    t.equal(statusCode === 401, !PUBLIC_PATHS.includes(path), `${method} ${path}: ${statusCode}`);
  }
});
