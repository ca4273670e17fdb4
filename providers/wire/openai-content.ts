import type { PartBuffer } from './parts.ts';

/** Reads the content fields of deltas in OpenAI's format, whose values differ by provider. */

type Kind = 'text' | 'reasoning';

/**
 * Adds a value as text. Strings are text. Numbers and booleans are tokens that look like one (Cloudflare,
 * cloudflare/ai#651). Objects and arrays are content blocks. Anything else is counted.
 */
export function addContent(parts: PartBuffer, kind: Kind, value: unknown): void {
  if (value === null || value === undefined || value === '') return;
  if (typeof value === 'string') parts.text(kind, value);
  else if (typeof value === 'number' || typeof value === 'boolean') {
    parts.anomaly('content_type');
    parts.text(kind, String(value));
  } else if (Array.isArray(value)) for (const block of value) addContent(parts, kind, block);
  else addBlock(parts, kind, value as Block);
}

interface Block {
  readonly type?: unknown;
  readonly text?: unknown;
  readonly thinking?: unknown;
  readonly content?: unknown;
  readonly signature?: unknown;
}

/**
 * Adds a block: `{type:'text', text}` and `{type:'thinking', thinking:[{type:'text', text}]}` (Mistral), or `{text}`
 * (Bedrock behind Envoy, envoyproxy/ai-gateway#1222). A signature has no text.
 */
function addBlock(parts: PartBuffer, kind: Kind, { type, text, thinking, content, signature }: Block): void {
  if (thinking !== undefined) addContent(parts, 'reasoning', thinking);
  else if (text !== undefined)
    addContent(parts, type === 'thinking' || type === 'reasoning' ? 'reasoning' : kind, text);
  else if (typeof content === 'string') parts.text(kind, content);
  else if (signature === undefined) parts.anomaly('content');
}
