import { randomBytes } from 'node:crypto';
import type { EventMessage, FastifyInstance, FastifyRequest } from 'fastify';
import type { PublicError } from '../plugins/http/api.ts';
import type { EventFeed, OutgoingEvent } from '../plugins/sse/api.ts';
import type { ContentPart, LogReader, Slice, Stream, Terminal } from '../plugins/streams/api.ts';

/** Sluice's own SSE events: JSON in `data`, a position in `id`. */

/** Length from which the text of an answer is written in pieces. */
const LONG_TEXT_UNITS = 4_096;

/** Reconnect delay in milliseconds. Spread, so that readers do not all return at the same time after a restart. */
const RETRY_MS = { min: 500, spread: 1_000 };

/** Returns an event that only sets the reconnect delay. Sent alone, it is the first byte that a gateway sees. */
export function retryEvent(): { retry: number } {
  return { retry: RETRY_MS.min + Math.floor(Math.random() * RETRY_MS.spread) };
}

/** Returns the first event of a stream. It is sent before the provider has answered. */
export function startEvent(fastify: FastifyInstance, stream: Stream): EventMessage {
  const { id, model, resumable } = stream;
  const start = { type: 'start', stream: id, model, url: streamUrl(fastify, stream), resumable };
  return { id: `${id}.0`, ...retryEvent(), data: JSON.stringify(start) };
}

/** Reports whether the stream can be resumed. Has no id, because it is not a position in the answer. */
function statusEvent(resumable: boolean): EventMessage {
  return jsonEvent({ type: 'status', resumable });
}

/** Returns the URL that reads a stream again and, with an action, stops it. Carries a ticket if one is needed. */
export function streamUrl({ auth, config }: FastifyInstance, { id, caller }: Stream, action = ''): string {
  return `${config.basePath}/streams/${id}${action}${auth.createReadTicketQuery(id, caller)}`;
}

/** Returns the feed of a response that follows a reader. */
export function createEventFeed(
  reader: LogReader,
  encode: (slice: Slice) => OutgoingEvent[],
  canResumeElsewhere = () => false,
): EventFeed<Slice> {
  return {
    canResumeElsewhere,
    next: () => reader.next(),
    close: () => reader.close(),
    isLast: (slice) => slice.terminal !== undefined,
    encode,
  };
}

/** Returns an event without id or name, as other protocols send their chunks. */
export function jsonEvent(value: object): EventMessage {
  return { data: JSON.stringify(value) };
}

/** Returns a function that encodes slices of a stream as Sluice's own events. */
export function createEventEncoder({ id, model }: Stream): (slice: Slice) => OutgoingEvent[] {
  return ({ parts, terminal, answer, resumable }) => {
    const events: OutgoingEvent[] = parts.map(({ part, position }) => ({
      id: `${id}.${position}`,
      data: JSON.stringify(contentPayload(part)),
    }));
    if (resumable !== undefined) events.push(statusEvent(resumable));
    if (terminal) {
      const text = terminal.type === 'end' ? (answer ?? '') : undefined;
      events.push(terminalEvent(`${id}.end`, terminalPayload(terminal, model), text));
    }
    return events;
  };
}

export interface ErrorPayload {
  readonly code: string;
  readonly message: string;
  readonly retryable: boolean;
  /** Seconds. */
  readonly retryAfter?: number;
}

/**
 * Returns an error as the only event of a response. The id ends in `.end`, so a reconnect gets 204. A
 * browser treats every status other than 200 and 204 as fatal.
 */
export function errorEvent(error: ErrorPayload, id: string = randomBytes(16).toString('base64url')): EventMessage {
  return { id: `${id}.end`, data: JSON.stringify({ type: 'error', ...error }) };
}

/**
 * Returns the response to an EventSource for which there is no room: an error for a question, the order to come back
 * for a resume. Returns undefined for every other request, which gets the status.
 */
export function refusalEvents(
  { code, message, retryAfterMs = 0 }: PublicError,
  { method, headers, query, routeOptions }: FastifyRequest,
): EventMessage[] | undefined {
  const { access } = routeOptions.config;
  const isSse = method === 'GET' && (access === 'ask' || access === 'read');
  if (!isSse || !/text\/event-stream/i.test(headers.accept ?? '')) return undefined;
  const isResume = headers['last-event-id'] || (query as { lastEventId?: string }).lastEventId || access === 'read';
  if (isResume) return [retryEvent()];
  return [errorEvent({ code, message, retryable: true, retryAfter: Math.ceil(retryAfterMs / 1000) })];
}

function contentPayload(part: ContentPart): object {
  if (part.type === 'tool_call') return part;
  return { type: part.type === 'text' ? 'delta' : 'reasoning', content: part.text };
}

/** Returns the last event. The text of a long answer is written in pieces, from the string that all readers share. */
function terminalEvent(id: string, payload: object, answer: string | undefined): OutgoingEvent {
  if (answer === undefined || answer.length < LONG_TEXT_UNITS) {
    return { id, data: JSON.stringify(answer === undefined ? payload : { type: 'end', answer, ...payload }) };
  }
  return { id, before: '{"type":"end","answer":', text: answer, after: `,${JSON.stringify(payload).slice(1)}` };
}

function terminalPayload(terminal: Terminal, model: string): object {
  if (terminal.type === 'end') {
    const { finishReason, usage, state, targets } = terminal;
    return { model, finishReason, usage, state, targets };
  }
  const { retryAfterMs, status: _, param: __, ...error } = terminal;
  return { ...error, ...(retryAfterMs !== undefined && { retryAfter: Math.ceil(retryAfterMs / 1000) }) };
}
