import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { skipReason } from '../redis.ts';

/** The Helm chart, and `deploy/kubernetes.yaml`, which is made from it. */

export const CHART = 'deploy/helm/sluice';
export const MANIFESTS = 'deploy/kubernetes.yaml';

const HELM = process.env.HELM ?? 'helm';
export const noHelm = skipReason(HELM, 'version');

export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly labels?: Readonly<Record<string, string>> };
  // biome-ignore lint/suspicious/noExplicitAny: the published schemas check the shape
  readonly [field: string]: any;
}

/** Renders the chart. @throws with what Helm prints */
export function render(...args: string[]): string {
  return helm('template', 'sluice', CHART, '--kube-version', '1.36', ...args);
}

export function helm(...args: string[]): string {
  return execFileSync(HELM, args, { encoding: 'utf8', stdio: 'pipe' });
}

export function parseObjects(text: string): KubernetesObject[] {
  return parseAllDocuments(text)
    .map((document) => document.toJS() as KubernetesObject | null)
    .filter((object) => object !== null);
}

/** Splits the manifests into the comments at their head and the rendered chart. */
export function splitManifests(text: string): { head: string; rendered: string } {
  const start = text.indexOf('---\n');
  return { head: text.slice(0, start), rendered: text.slice(start) };
}

/** Returns the hash of the chart and of what it renders. It shows a drift also where Helm is not installed. */
export function chartHash(rendered: string): string {
  const hash = createHash('sha256').update(rendered);
  const files = readdirSync(CHART, { recursive: true, encoding: 'utf8' }).filter((file) => /\.\w+$/.test(file));
  for (const file of files.sort()) hash.update(file).update(readFileSync(join(CHART, file)));
  return hash.digest('hex');
}
