import { createHash } from 'node:crypto';
import type { Prompt } from '../llm/client.ts';

/** Returns a hash of the question, so that an idempotency key cannot stand for two questions. */
export function fingerprint(model: string, prompt: Prompt): string {
  return createHash('sha256')
    .update(JSON.stringify(withSortedKeys([model, prompt])))
    .digest('base64url');
}

/** Returns the value with object fields in one order, because clients may send them in any order. */
function withSortedKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withSortedKeys);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return entries.map(([name, field]) => [name, withSortedKeys(field)]);
}
