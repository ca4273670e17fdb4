import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import t from 'tap';

/**
 * The law of the house, held by code: requests go down, parts come up, nothing imports upward.
 * Routes reach plugins through decorators alone, and providers never know one another.
 */

const ROOMS = ['plugins', 'routes', 'providers'];
const MOST_LINES = 200;

function filesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(folder, name));
}

const files = ['app.ts', 'server.ts', ...ROOMS.flatMap(filesIn)];
const source = new Map(files.map((file) => [file, readFileSync(file, 'utf8')]));
const packages = (text: string) => specifiers(text).filter((one) => !one.startsWith('.'));

function specifiers(text: string): string[] {
  return [...text.matchAll(/^(?:import|export)\b[^;]*?from '([^']+)'|import\('([^']+)'\)/gms)].map(
    (match) => (match[1] ?? match[2]) as string,
  );
}

function importsOf(file: string): string[] {
  return specifiers(source.get(file) as string)
    .filter((one) => one.startsWith('.'))
    .map((one) => normalize(join(dirname(file), one)));
}

/** Where each kind of file may look; the first rule that fits stands. */
const LAW: [RegExp, RegExp][] = [
  [/^server\.ts$/, /^app\.ts$|^plugins\/config\//],
  [/^app\.ts$/, /^plugins\/|^routes\/|^providers\/types\.ts$/],
  [/^routes\//, /^routes\//],
  [/^plugins\//, /^plugins\/|^providers\/(types|errors|registry|addresses)\.ts$/],
  [/^providers\/(types|errors|addresses)\.ts$/, /^$/],
  [/^providers\/wire\//, /^providers\/(types|errors|addresses)\.ts$|^providers\/wire\//],
  [/^providers\/registry\.ts$/, /^providers\//],
  [/^providers\//, /^providers\/(types|errors)\.ts$|^providers\/wire\//],
];

t.test('every import goes down', async (t) => {
  t.ok(files.length > 30, `${files.length} files`);
  for (const file of files) {
    const allowed = LAW.find(([from]) => from.test(file))?.[1] as RegExp;
    for (const target of importsOf(file)) {
      t.ok(source.has(target), `${file} imports ${target}, which exists`);
      t.match(target, allowed, `${file} may import ${target}`);
    }
  }
});

t.test('there is no cycle', async (t) => {
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]) => {
    if (path.includes(file)) t.fail([...path, file].join(' → '));
    if (done.has(file) || path.includes(file)) return;
    for (const target of importsOf(file)) visit(target, [...path, file]);
    done.add(file);
  };
  for (const file of files) visit(file, []);
  t.equal(done.size, files.length);
});

t.test('packages stay in their rooms', async (t) => {
  for (const file of files) {
    const used = packages(source.get(file) as string);
    const only = (name: string, place: RegExp) => {
      if (used.some((one) => one === name || one.startsWith(`${name}/`))) t.match(file, place, `${name} in ${file}`);
    };
    only('undici', /^providers\/wire\//);
    only('eventsource-parser', /^providers\/wire\//);
    only('fastify-sse-v2', /^plugins\/sse-writer\.ts$/);
    only('prom-client', /^plugins\/metrics\//);
    only('@fastify/swagger', /^routes\/docs\//);
    only('@fastify/static', /^routes\/playground\//);
    only('yaml', /^plugins\/config\//);
    only('ioredis', /^plugins\/(redis|streams\/redis)\//);
    for (const name of ['api', 'sdk-trace-node', 'resources', 'exporter-trace-otlp-http']) {
      only(`@opentelemetry/${name}`, /^plugins\/tracing\//);
    }
    only('jose', /^plugins\/auth\//);
    only('rate-limiter-flexible', /^plugins\/limits\//);
    if (file.startsWith('providers/'))
      t.notOk(
        used.some((one) => one.includes('fastify')),
        `${file} knows no Fastify`,
      );
    if (file !== 'server.ts')
      t.notMatch(source.get(file), /process\.(env|exit|on)\b/, `${file} leaves the process alone`);
  }
});

t.test('no file has outgrown its reason', async (t) => {
  for (const [file, text] of source)
    t.ok(text.split('\n').length <= MOST_LINES, `${file} has at most ${MOST_LINES} lines`);
});
