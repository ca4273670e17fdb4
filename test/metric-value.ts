import type { FastifyInstance } from 'fastify';

/**
 * Returns the value of a metric of `GET /metrics`, summed over all series that have these labels. A labelled
 * metric without such a series is 0. Throws for a metric that the service does not expose.
 */
export async function metricValue(
  app: FastifyInstance,
  name: string,
  labels: Record<string, string> = {},
): Promise<number> {
  const lines = (await app.metrics.text()).split('\n');
  const declared = [name, name.replace(/_(count|sum|bucket)$/, '')];
  if (!lines.some((line) => declared.some((metric) => line.startsWith(`# TYPE ${metric} `)))) {
    throw new Error(`no metric ${name}`);
  }
  const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  return lines
    .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
    .filter((line) => wanted.every((label) => line.includes(label)))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}
