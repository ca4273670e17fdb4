import type { InputItem } from './schema.ts';

export interface PageOptions {
  /** Id of the last item of the page before. */
  readonly after?: string | undefined;
  readonly limit: number;
  readonly isNewestFirst: boolean;
}

/** Returns a page of a list as OpenAI returns it; undefined if there is no item `after`. */
export function pageOf(items: readonly InputItem[], { after, limit, isNewestFirst }: PageOptions) {
  const all = isNewestFirst ? [...items].reverse() : items;
  const place = after === undefined ? -1 : all.findIndex(({ id }) => id === after);
  if (after !== undefined && place < 0) return undefined;
  const data = all.slice(place + 1, place + 1 + limit).map(toListed);
  return {
    object: 'list' as const,
    data,
    first_id: data.at(0)?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: place + 1 + limit < all.length,
  };
}

/** Returns an item as the list has it: the text of a message is a part. */
function toListed(item: InputItem) {
  if (item.type !== 'message' || typeof item.content !== 'string') return item;
  const type = item.role === 'assistant' ? 'output_text' : 'input_text';
  return { ...item, content: [{ type, text: item.content }] };
}
