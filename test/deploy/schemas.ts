import { readFileSync } from 'node:fs';
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv';

/** Checks objects against the published schemas in `schemas/`. */

const DEFINITIONS: Readonly<Record<string, string>> = {
  'apps/v1 Deployment': 'io.k8s.api.apps.v1.Deployment',
  'autoscaling/v2 HorizontalPodAutoscaler': 'io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler',
  'networking.k8s.io/v1 NetworkPolicy': 'io.k8s.api.networking.v1.NetworkPolicy',
  'policy/v1 PodDisruptionBudget': 'io.k8s.api.policy.v1.PodDisruptionBudget',
  'v1 ConfigMap': 'io.k8s.api.core.v1.ConfigMap',
  'v1 Service': 'io.k8s.api.core.v1.Service',
};
const ROUTE = 'gateway.networking.k8s.io/v1 HTTPRoute';

const ajv = new Ajv({ strict: false, validateFormats: false, allErrors: true });
for (const name of ['kubernetes', 'httproute', 'grafana-dashboard', 'grafana-timeseries', 'grafana-prometheus']) {
  ajv.addSchema(JSON.parse(readFileSync(`test/deploy/schemas/${name}.json`, 'utf8')), name);
}

/** Returns what is wrong with a value by a schema of `schemas/`, such as `grafana-timeseries#/definitions/Options`. */
export function violations(schema: string, value: unknown): string[] {
  return errors(ajv.getSchema(schema), value);
}

/** Returns what is wrong with an object for Kubernetes. */
export function objectViolations(object: { apiVersion: string; kind: string }): string[] {
  const type = `${object.apiVersion} ${object.kind}`;
  if (type === ROUTE) return violations('httproute', object);
  const definition = DEFINITIONS[type];
  return definition ? violations(`kubernetes#/definitions/${definition}`, object) : [`${type} has no schema here`];
}

/** Returns what is wrong with values for the chart. Helm checks the same. */
export function valuesViolations(schemaFile: string, values: unknown): string[] {
  return errors(ajv.compile(JSON.parse(readFileSync(schemaFile, 'utf8'))), values);
}

function errors(validate: ValidateFunction | undefined, value: unknown): string[] {
  if (!validate) throw new Error('There is no such schema');
  validate(value);
  return (validate.errors ?? []).map(({ instancePath, message, params }: ErrorObject) =>
    `${instancePath} ${message} ${JSON.stringify(params)}`.trim(),
  );
}
