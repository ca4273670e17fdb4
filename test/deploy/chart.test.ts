import { readFileSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { parse } from 'yaml';
import { codeBlock } from '../code-blocks.ts';
import { CHART, chartHash, helm, MANIFESTS, noHelm, parseObjects, render, splitManifests } from './chart.ts';
import { objectViolations, valuesViolations } from './schemas.ts';

/** The Helm chart. `npm run manifests` writes what it renders into `deploy/kubernetes.yaml`. */

const HASH = /[0-9a-f]{64}/;
const SCHEMA = `${CHART}/values.schema.json`;
const values = parse(readFileSync(`${CHART}/values.yaml`, 'utf8')) as Record<string, unknown>;

const byKind = (text: string) => Object.fromEntries(parseObjects(text).map((object) => [object.kind, object]));

t.test('deploy/kubernetes.yaml is what the chart renders with its defaults', { skip: noHelm }, (t) => {
  const { head, rendered } = splitManifests(readFileSync(MANIFESTS, 'utf8'));
  const now = render();
  if (process.env.UPDATE_DOCS) writeFileSync(MANIFESTS, head.replace(HASH, chartHash(now)) + now);
  // Versions of Helm may print objects in another order.
  else t.same(byKind(rendered), byKind(now), 'the manifests are up to date; else run `npm run manifests`');
  t.end();
});

t.test('neither the chart nor deploy/kubernetes.yaml has changed without the other', (t) => {
  const { head, rendered } = splitManifests(readFileSync(MANIFESTS, 'utf8'));
  t.equal(HASH.exec(head)?.[0], chartHash(rendered), 'the hash is up to date; else run `npm run manifests`');
  t.end();
});

t.test('the chart has the version of the service', (t) => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  t.match(parse(readFileSync(`${CHART}/Chart.yaml`, 'utf8')), { version, appVersion: version });
  t.end();
});

t.test('the schema of the values accepts the defaults, and no unknown or wrong value', (t) => {
  t.same(valuesViolations(SCHEMA, values), []);
  for (const [wrong, message] of [
    [{ replica: 2 }, /additional properties/],
    [{ image: { repository: 'sluice', tag: 1 } }, /tag must be string/],
    [{ stop: { preStopSeconds: 0, drainSeconds: 25, handoverSeconds: 30 } }, /preStopSeconds must be >= 1/],
    [{ env: { MAX_GENERATIONS: 20000000 } }, /MAX_GENERATIONS must be string/],
    [{ env: { DRAIN_MS: '1000' } }, /DRAIN_MS/],
    [{ env: { BASE_PATH: '/chat' } }, /BASE_PATH/],
    [{ basePath: 'chat' }, /basePath must match/],
    [{ secretFiles: ['redis-url'] }, /secretFiles\/0 must match/],
    [{ httpRoute: { enabled: true, gateway: { name: 'g', namespace: 'g' }, hostnames: [] } }, /hostnames must NOT/],
  ] as const)
    t.match(valuesViolations(SCHEMA, { ...values, ...wrong }).join('\n'), message, JSON.stringify(wrong));
  t.end();
});

t.test('the chart passes helm lint, and Helm applies the schema', { skip: noHelm }, (t) => {
  t.match(helm('lint', '--strict', CHART, '--kube-version', '1.36'), /0 chart\(s\) failed/);
  t.throws(() => render('--set', 'replica=2'), /additional properties 'replica' not allowed/);
  t.throws(() => render('--set', 'env.DRAIN_MS=1'), /DRAIN_MS/);
  t.throws(() => render('--set', 'autoscaling.minReplicas=11'), /minReplicas is above/);
  t.end();
});

/** Renders the chart, checks every object, and returns a function that finds one. */
function renderValid(t: Test, ...args: string[]) {
  const rendered = parseObjects(render(...args));
  for (const object of rendered) t.same(objectViolations(object), [], `${args.join(' ')}: ${object.kind}`);
  return (kind: string) => rendered.find((object) => object.kind === kind);
}

t.test('the values that docs/operations.md shows are enough', { skip: noHelm }, (t) => {
  const example = codeBlock(readFileSync('docs/operations.md', 'utf8'), 'yaml', '# my-values.yaml');
  const find = renderValid(t, '--values', `${t.testdir({ 'values.yaml': example })}/values.yaml`);
  t.match(parse(find('ConfigMap')?.data['sluice.yaml']), { defaultModel: 'bella/gpt-4o', keys: [{ name: 'web' }] });
  t.same(find('HTTPRoute')?.spec.hostnames, ['answers.example.com']);
  t.match(find('Deployment')?.spec.template.spec.containers[0].image, /^registry\.example\.com\/sluice:\d/);
  const open = renderValid(t, '--set', 'config.keys=null,secretFiles={REDIS_URL}');
  t.notMatch(open('ConfigMap')?.data['sluice.yaml'], 'keys');
  t.notMatch(JSON.stringify(open('Deployment')), 'TICKET_SECRET');
  t.end();
});

t.test('the chart renders valid objects with every part switched', { skip: noHelm }, (t) => {
  const objects = (...args: string[]) => renderValid(t, ...args);
  for (const [part, kind] of [
    ['autoscaling', 'HorizontalPodAutoscaler'],
    ['httpRoute', 'HTTPRoute'],
    ['networkPolicy', 'NetworkPolicy'],
  ] as const)
    t.equal(objects('--set', `${part}.enabled=false`)(kind), undefined, kind);
  t.equal(objects('--set', 'autoscaling.enabled=false,replicas=5')('Deployment')?.spec.replicas, 5);
  t.equal(objects()('Deployment')?.spec.replicas, undefined, 'the autoscaler alone sets the number of pods');

  const values = `
basePath: /chat
stop: { drainSeconds: 600 }
env: { MAX_GENERATIONS: "20000000", LOG_LEVEL: debug }
config: { keys: [{ name: web, sha256: "${'0'.repeat(64)}" }], limits: { textChars: 16777216 } }
networkPolicy: { redisPorts: [6379, 26379], egress: [{ ports: [{ port: 4318 }] }] }
`;
  const find = objects('--values', `${t.testdir({ 'values.yaml': values })}/values.yaml`);
  const { containers, terminationGracePeriodSeconds } = find('Deployment')?.spec.template.spec ?? {};
  t.equal(terminationGracePeriodSeconds, 650);
  t.match(containers[0], { livenessProbe: { httpGet: { path: '/chat/livez' } } });
  const env = new Map(containers[0].env.map(({ name, value }: { name: string; value: string }) => [name, value]));
  t.match(Object.fromEntries(env), { BASE_PATH: '/chat', DRAIN_MS: '600000', MAX_GENERATIONS: '20000000' });
  t.match(find('HTTPRoute')?.spec.rules[0].matches[0].path.value, /^\/chat\//);
  t.equal(parse(find('ConfigMap')?.data['sluice.yaml']).limits.textChars, 16777216);
  t.same(
    find('NetworkPolicy')?.spec.egress.flatMap(({ ports }: { ports: { port: number }[] }) => ports.map((p) => p.port)),
    [53, 53, 6379, 26379, 443, 4318],
  );
  t.end();
});
