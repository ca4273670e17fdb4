import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import { dirname, join } from 'node:path';
import t, { type Test } from 'tap';
import { parse, stringify } from 'yaml';
import { loadConfig } from '../../plugins/config/load.ts';
import { build, serve, sha256 } from '../helper.ts';
import { operationsOf, readDocument } from '../openapi-document.ts';
import { isInstalled } from '../redis.ts';
import { type KubernetesObject, MANIFESTS, parseObjects } from './chart.ts';
import { objectViolations } from './schemas.ts';

/** `deploy/kubernetes.yaml`: valid for Kubernetes, for Sluice, and closed where it must be. */

const text = readFileSync(MANIFESTS, 'utf8');
const objects = parseObjects(text);
const find = (kind: string): KubernetesObject => objects.find((object) => object.kind === kind) as KubernetesObject;
const { spec: deployment } = find('Deployment');
const pod = deployment.template.spec;
const [container] = pod.containers;
const SECRETS = { REDIS_URL: 'redis://:secret@redis:6379', TICKET_SECRET: 'x'.repeat(64), BELLA_API_KEY: 'sk-test' };

t.test('every object is valid by the published schemas', (t) => {
  const kinds = ['NetworkPolicy', 'PodDisruptionBudget', 'ConfigMap', 'Service', 'Deployment'];
  t.same(objects.map(({ kind }) => kind).sort(), [...kinds, 'HorizontalPodAutoscaler', 'HTTPRoute'].sort());
  for (const object of objects) t.same(objectViolations(object), [], object.kind);
  const broken = structuredClone(find('Deployment'));
  broken.spec.template.spec.containers[0].imagePullPolice = 'Always';
  t.match(objectViolations(broken).join(), 'imagePullPolice', 'a wrong name is found');
  t.end();
});

t.test('all selectors name the pods, and all references exist', (t) => {
  const { labels } = deployment.template.metadata;
  for (const [name, selector] of Object.entries({
    Deployment: deployment.selector.matchLabels,
    Service: find('Service').spec.selector,
    PodDisruptionBudget: find('PodDisruptionBudget').spec.selector.matchLabels,
    NetworkPolicy: find('NetworkPolicy').spec.podSelector.matchLabels,
    zone: pod.topologySpreadConstraints[0].labelSelector.matchLabels,
    node: pod.topologySpreadConstraints[1].labelSelector.matchLabels,
  }))
    t.same(selector, labels, name);
  const { name } = find('Deployment').metadata;
  t.match(find('HorizontalPodAutoscaler').spec.scaleTargetRef, { kind: 'Deployment', name });
  const [servicePort] = find('Service').spec.ports;
  t.equal(servicePort.targetPort, container.ports[0].name);
  const [rule] = find('HTTPRoute').spec.rules;
  t.same(rule.backendRefs, [{ name: find('Service').metadata.name, port: servicePort.port }]);
  t.equal(pod.volumes[0].configMap.name, find('ConfigMap').metadata.name);
  t.end();
});

/** Loads the configuration of a pod: its variables, its ConfigMap with `change`, and a Secret. */
function load(t: Test, change: object) {
  const folder = t.testdir({});
  const write = (mount: string, name: string, content: string) => {
    const file = join(folder, container.volumeMounts.find((m: { name: string }) => m.name === mount).mountPath, name);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
  };
  const { data } = find('ConfigMap') as unknown as { data: Record<string, string> };
  for (const [name, yaml] of Object.entries(data)) write('config', name, stringify({ ...parse(yaml), ...change }));
  for (const [name, value] of Object.entries(SECRETS)) write('secrets', name, value);
  const env = container.env.map(({ name, value }: { name: string; value: string }) => [
    name,
    value.startsWith('/') ? join(folder, value) : value,
  ]);
  // As the Dockerfile sets them.
  return loadConfig({ HOST: '0.0.0.0', PORT: '3000', ...Object.fromEntries(env) });
}
const KEYS = { keys: [{ name: 'web', sha256: sha256('key') }] };

t.test('Sluice accepts the configuration as soon as it has a key, and does not start without', (t) => {
  const config = load(t, KEYS);
  t.match(config, { port: container.ports[0].containerPort, trustProxy: 1, defaultModel: 'bella/gpt-4o' });
  t.equal(config.redis?.url, SECRETS.REDIS_URL);
  t.equal(config.ticketSecret, SECRETS.TICKET_SECRET);
  t.same(config.providers.bella?.apiKeys, [SECRETS.BELLA_API_KEY]);
  t.equal(config.limits.expectedReplicas, find('HorizontalPodAutoscaler').spec.minReplicas);
  t.throws(() => load(t, {}), /keys: the list is empty/);
  t.end();
});

t.test('a pod has the time to drain and to hand over', (t) => {
  const config = load(t, KEYS);
  const stopMs = container.lifecycle.preStop.sleep.seconds * 1_000 + config.drainMs + config.drainHandoverMs;
  t.ok(pod.terminationGracePeriodSeconds * 1_000 >= stopMs + 10_000, 'with ten seconds more');
  t.equal(deployment.strategy.rollingUpdate.maxUnavailable, 0, 'a new pod is ready before an old one stops');
  t.end();
});

t.test('no value of a secret is in the manifests, and the pods meet the restricted Pod Security Standard', (t) => {
  t.equal(find('Secret'), undefined);
  for (const { name, value } of container.env)
    if (/URL|SECRET|KEY/.test(name)) t.match(value, /^\/run\/secrets\//, `${name} is a file`);
  t.match(pod.securityContext, { runAsNonRoot: true, runAsUser: Number, seccompProfile: { type: 'RuntimeDefault' } });
  t.match(container.securityContext, {
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ['ALL'] },
  });
  for (const field of ['hostNetwork', 'hostPID', 'hostIPC']) t.notOk(pod[field], field);
  t.equal(pod.automountServiceAccountToken, false);
  for (const volume of pod.volumes) t.ok(volume.configMap ?? volume.secret, `${volume.name} is of an allowed type`);
  t.notOk(container.ports[0].hostPort);
  t.end();
});

t.test('the service answers at every path that a probe or Prometheus requests', async (t) => {
  const app = await build(t, { env: { DEMO: 'true' } });
  const { annotations } = deployment.template.metadata;
  const paths = ['startupProbe', 'readinessProbe', 'livenessProbe'].map((probe) => container[probe].httpGet.path);
  for (const path of [...paths, annotations['prometheus.io/path']])
    t.equal((await app.inject(path)).statusCode, 200, path);
  t.equal(annotations['prometheus.io/port'], String(container.ports[0].containerPort));
});

t.test('the route has every path for clients and none for operators, and no time limit', async (t) => {
  const [rule] = find('HTTPRoute').spec.rules;
  const prefixes = rule.matches.map(({ path }: { path: { type: string; value: string } }) => {
    t.equal(path.type, 'PathPrefix');
    return path.value;
  });
  // A prefix of the Gateway API consists of whole segments.
  const isRouted = (path: string) => prefixes.some((prefix: string) => `${path}/`.startsWith(`${prefix}/`));
  const { app, url } = await serve(t, { env: { DEMO: 'true' } });
  for (const [name, { tags = [] }] of operationsOf(await readDocument(app))) {
    const path = name.replace(/^\w+ /, '');
    t.equal(isRouted(path), !tags.includes('Operation'), name);
  }
  for (const path of ['/client.js', '/client-ai.js']) t.ok(isRouted(path), path);
  for (const path of ['/', '/docs', '/docs/json', '/openapi.json']) t.notOk(isRouted(path), path);
  // Some gateways match before they resolve these; the service does not resolve them.
  for (const path of ['/v1/../metrics', '/v1/%2e%2e/metrics', '/v1//metrics', '/v1/..%2fmetrics'])
    t.equal(await statusOf(url, path), 404, path);
  t.equal(rule.timeouts.request, '0s');
});

/** Requests a path as it is; `fetch` and `inject` resolve its dots. */
async function statusOf(url: string, path: string): Promise<number | undefined> {
  const [response] = (await once(get(url, { path, agent: false }), 'response')) as [IncomingMessage];
  response.resume();
  return response.statusCode;
}

t.test('only the gateway and Prometheus reach the pods, and these reach Redis, DNS and HTTPS', (t) => {
  const { policyTypes, ingress, egress } = find('NetworkPolicy').spec;
  t.same(policyTypes, ['Ingress', 'Egress']);
  t.equal(ingress.length, 1);
  t.same(ingress[0].ports, [{ protocol: 'TCP', port: container.ports[0].containerPort }]);
  const namespaces = ingress[0].from.map((from: KubernetesObject) => from.namespaceSelector.matchLabels);
  const { namespace } = find('HTTPRoute').spec.parentRefs[0];
  t.same(namespaces, [{ 'kubernetes.io/metadata.name': namespace }, { 'kubernetes.io/metadata.name': 'monitoring' }]);
  const ports = egress.flatMap((rule: { ports: { protocol: string; port: number }[] }) =>
    rule.ports.map(({ protocol, port }) => `${protocol} ${port}`),
  );
  const { port: redisPort } = new URL(SECRETS.REDIS_URL);
  t.same(ports, ['UDP 53', 'TCP 53', `TCP ${redisPort}`, 'TCP 443']);
  t.end();
});

t.test(
  'the autoscaler uses metrics that the service has and the adapter serves, and removes pods slowly',
  async (t) => {
    const { metrics, behavior, minReplicas } = find('HorizontalPodAutoscaler').spec;
    const app = await build(t, { env: { DEMO: 'true' } });
    const { body } = await app.inject('/metrics');
    const { rules } = parse(readFileSync('deploy/prometheus/adapter.yaml', 'utf8'));
    const served = new RegExp(`^(${/=~"([^"]+)"/.exec(rules.custom[0].seriesQuery)?.[1]})$`);
    for (const { type, pods } of metrics) {
      t.equal(type, 'Pods');
      t.match(body, `# TYPE ${pods.metric.name} gauge`);
      t.match(pods.metric.name, served);
    }
    const interval = metrics.find((metric: KubernetesObject) => metric.pods.metric.name.includes('interval'));
    const { maxFlushMs } = load(t, KEYS).streams;
    t.equal(interval.pods.target.averageValue, `${maxFlushMs / 2}m`, 'half of the interval of a full core');
    const { totalMs } = load(t, KEYS).deadlines;
    t.ok(behavior.scaleDown.stabilizationWindowSeconds * 1_000 >= totalMs, 'not before the longest answer has ended');
    t.same(behavior.scaleDown.policies, [{ type: 'Pods', value: 1, periodSeconds: 300 }]);
    t.ok(minReplicas >= 2);
  },
);

const noPromtool = isInstalled('promtool', '--version') ? false : 'promtool is not installed';
t.test('the query of the adapter is valid', { skip: noPromtool }, (t) => {
  const { rules } = parse(readFileSync('deploy/prometheus/adapter.yaml', 'utf8'));
  // As the adapter fills in its template.
  const expr = rules.custom[0].metricsQuery
    .replace('<<.Series>>', 'sluice_generations_active')
    .replace('<<.LabelMatchers>>', 'namespace="default",pod=~"sluice-1|sluice-2"')
    .replace('<<.GroupBy>>', 'pod');
  const file = join(t.testdir({}), 'rules.yml');
  writeFileSync(file, stringify({ groups: [{ name: 'adapter', rules: [{ record: 'a', expr }] }] }));
  t.match(execFileSync('promtool', ['check', 'rules', file], { encoding: 'utf8' }), /SUCCESS: 1 rules found/);
  t.end();
});
