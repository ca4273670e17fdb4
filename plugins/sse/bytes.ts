import type { EventMessage } from 'fastify';
import { serializeSSEEvent } from 'fastify-sse-v2/lib/sse.js';
import type { LongTextEvent, OpeningBlock, OutgoingEvent } from './api.ts';

/** The bytes of Server-Sent Events, in a form that every known decoder reads. */

/** Without a blank line: some decoders emit an event at every blank line, and then parse its empty data. */
export const HEARTBEAT = ': hb\n';

/** Python's line iterators also split at these characters. JSON does not escape them. */
const LINE_SEPARATOR = /[\u0085\u2028\u2029]/;
const LINE_SEPARATORS = /[\u0085\u2028\u2029]/g;

/**
 * Serializes an event or an opening block. Text outside of JSON has no line separators. The `id` is the last line: some
 * clients resume behind an id as soon as they have read its line, and would lose an event that is cut in its data.
 */
export function serializeEvent(event: Exclude<OutgoingEvent, LongTextEvent>): string {
  if ('retryMs' in event) return serializeOpening(event);
  const { id, data, event: name, retry, comment } = event;
  // Nearly all events: some JSON, and at most an id. They are written per token.
  if (data && typeof data === 'string' && !(event.idFirst || name || retry || comment) && !data.includes('\n')) {
    return `data: ${escapeLineSeparators(data)}\n${id ? `id: ${id}\n` : ''}\n`;
  }
  if (!id || event.idFirst) return escapeLineSeparators(serializeSSEEvent(event));
  const text = escapeLineSeparators(serializeSSEEvent({ data, event: name, retry, comment } as EventMessage));
  return `${text.slice(0, -1)}id: ${id}\n\n`;
}

/** Replaces U+0085, U+2028 and U+2029 in JSON by their escapes. */
export function escapeLineSeparators(json: string): string {
  if (!LINE_SEPARATOR.test(json)) return json;
  return json.replace(LINE_SEPARATORS, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/**
 * Serializes an opening block. WebKit keeps a half-received event over a broken connection and joins the next response
 * to it. The first line ends this rest and may be spoilt by it, so it is repeated. The `id` replaces that of the rest.
 * The event has data, so that decoders emit it and drop the rest, and a name, so that `onmessage` does not hear it.
 */
function serializeOpening({ lastEventId, retryMs }: OpeningBlock): string {
  const first = lastEventId === '' ? 'event: ready' : `id: ${lastEventId}`;
  return `${first}\nid: ${lastEventId}\nevent: ready\nretry: ${retryMs}\ndata: {}\n\n`;
}
