import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';

/** Writes the schemas of this folder. README.md beside it names the sources and the changes. */

const [sources] = process.argv.slice(2);
if (!sources)
  throw new Error(
    'Name the folder with swagger.json, httproutes.yaml, dashboard.json, timeseries.json and prometheus.json.',
  );

const KINDS = [
  'api.apps.v1.Deployment',
  'api.autoscaling.v2.HorizontalPodAutoscaler',
  'api.core.v1.ConfigMap',
  'api.core.v1.Secret',
  'api.core.v1.Service',
  'api.networking.v1.NetworkPolicy',
  'api.policy.v1.PodDisruptionBudget',
].map((kind) => `io.k8s.${kind}`);

/** Types that the API server reads in another form than the OpenAPI document says. */
const FORMS = {
  'io.k8s.apimachinery.pkg.util.intstr.IntOrString': { type: ['integer', 'string'] },
  'io.k8s.apimachinery.pkg.api.resource.Quantity': { type: ['number', 'string'] },
};

const read = (file) => readFileSync(join(sources, file), 'utf8');
const write = (file, schema) => writeFileSync(join(import.meta.dirname, file), `${JSON.stringify(schema, null, 2)}\n`);

/** Copies a schema without descriptions and extensions. Objects with properties accept no others. */
function strict(schema) {
  if (Array.isArray(schema)) return schema.map(strict);
  if (typeof schema !== 'object' || schema === null) return schema;
  const copy = {};
  for (const [name, value] of Object.entries(schema)) {
    if (name === 'properties' || name === 'definitions') {
      copy[name] = Object.fromEntries(Object.entries(value).map(([key, child]) => [key, strict(child)]));
    } else if (name !== 'description' && name !== 'default' && !name.startsWith('x-')) copy[name] = strict(value);
  }
  if (copy.properties) copy.additionalProperties ??= false;
  return copy;
}

/** Returns the named definitions and all that they refer to. */
function closure(definitions, names) {
  const found = {};
  const visit = (name) => {
    if (found[name]) return;
    found[name] = FORMS[name] ?? strict(definitions[name]);
    for (const [, next] of JSON.stringify(found[name]).matchAll(/"#\/definitions\/([^"]+)"/g)) visit(next);
  };
  names.forEach(visit);
  return Object.fromEntries(Object.entries(found).sort(([a], [b]) => a.localeCompare(b)));
}

write('kubernetes.json', { definitions: closure(JSON.parse(read('swagger.json')).definitions, KINDS) });

const route = parse(read('httproutes.yaml')).spec.versions.find(({ name }) => name === 'v1').schema.openAPIV3Schema;
// The CRD leaves the metadata to the API server.
route.properties.metadata = { type: 'object' };
write('httproute.json', strict(route));

const { definitions } = JSON.parse(read('dashboard.json'));
write('grafana-dashboard.json', {
  $ref: '#/definitions/Dashboard',
  definitions: closure(definitions, ['Dashboard']),
});
const { definitions: panel } = JSON.parse(read('timeseries.json'));
write('grafana-timeseries.json', { definitions: closure(panel, ['Options', 'FieldConfig']) });
const { definitions: query } = JSON.parse(read('prometheus.json'));
write('grafana-prometheus.json', { $ref: '#/definitions/Dataquery', definitions: closure(query, ['Dataquery']) });
