import type { Target } from '../config/model-routes.ts';
import type { ModelPrice, PriceTable } from '../config/price-file.ts';

/** Finds models in a file of prices. Pure. */

/** Names in the file of provider types that it calls differently. */
const NAMES: Readonly<Record<string, readonly string[]>> = {
  azure: ['azure', 'azure_ai'],
  bedrock: ['bedrock', 'bedrock_converse'],
  cohere: ['cohere', 'cohere_chat'],
  together: ['together_ai'],
  vertex: ['vertex_ai'],
  vllm: ['hosted_vllm'],
};

/**
 * Returns the price of an upstream model; undefined if the file has none. Tries these names:
 *
 * 1. `<name>/<model>` with each name that the file has for the type of the provider. A provider of the type
 *    `openai-compatible` is looked up by its own name.
 * 2. `<model>`, if the entry says that it belongs to such a provider.
 */
export function findPrice(
  { entries }: PriceTable,
  { provider, model }: Target,
  type: string | undefined,
): ModelPrice | undefined {
  const names = type === undefined || type === 'openai-compatible' ? [provider] : (NAMES[type] ?? [type]);
  for (const name of names) {
    const found = entries.get(`${name}/${model}`);
    if (found) return found.price;
  }
  const bare = entries.get(model);
  const isOwn = bare && names.some((name) => bare.provider === name || bare.provider.startsWith(`${name}-`));
  return isOwn ? bare.price : undefined;
}
