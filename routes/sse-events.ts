import { randomBytes } from 'node:crypto';
import type { EventMessage, FastifyInstance, FastifyRequest } from 'fastify';
import type { PublicError } from '../plugins/http/api.ts';
import type { EventFeed, OpeningBlock, OutgoingEvent } from '../plugins/sse/api.ts';
import type { ContentPart, LogReader, Slice, Stream, Terminal } from '../plugins/streams/api.ts';

/** Sluice's own SSE events: JSON in `data`, a position in `id`. */

declare module 'fastify' {
  interface FastifyContextConfig {
    /** True for GET routes with Sluice's own events: an EventSource gets a temporary refusal as an event. */
    refusesInBand?: boolean;
  }
}

/** A position in a stream that a client has reached. */
export interface ResumePoint {
  readonly stream: string;
  /** `end` if the terminal event was delivered. */
  readonly position: number | 'end';
}

const EVENT_ID = /^([A-Za-z0-9_-]{16,64})\.(\d{1,15}|end)$/;

/** Length from which the text of an answer is written in pieces. */
const LONG_TEXT_UNITS = 4_096;

/** Reconnect delay in milliseconds. Spread, so that readers do not all return at the same time after a restart. */
const RETRY_MS = { min: 500, spread: 1_000 };

/** Returns the resume point that an event id names; undefined if this is not the id of an event. */
export function parseEventId(id: string): ResumePoint | undefined {
  const [, stream, position] = EVENT_ID.exec(id) ?? [];
  if (stream === undefined) return undefined;
  return { stream, position: position === 'end' ? 'end' : Number(position) };
}

/** Returns the value of the `Last-Event-ID` header, else of `?lastEventId=`. An empty value counts as none. */
export function lastEventIdOf({ headers, query }: FastifyRequest): string | undefined {
  const id = headers['last-event-id'] || (query as { lastEventId?: unknown } | undefined)?.lastEventId;
  return id ? String(id) : undefined;
}

/**
 * Returns the opening block of a response to an EventSource. Sent alone, it tells the client to come back.
 * @param point position that the answer continues after; undefined for an answer from its beginning
 */
export function openingBlock(point?: ResumePoint): OpeningBlock {
  const lastEventId = point === undefined ? '' : `${point.stream}.${point.position}`;
  return { lastEventId, retryMs: RETRY_MS.min + Math.floor(Math.random() * RETRY_MS.spread) };
}

/** Returns the first event of a stream. It is sent with the opening block, before the provider has answered. */
export function startEvent(fastify: FastifyInstance, stream: Stream): EventMessage {
  const { id, model, resumable } = stream;
  const start = { type: 'start', stream: id, model, url: streamUrl(fastify, stream), resumable };
  return { id: `${id}.0`, data: JSON.stringify(start) };
}

/** Reports whether the stream can be resumed. Has no id, because it is not a position in the answer. */
function statusEvent(resumable: boolean): EventMessage {
  return jsonEvent({ type: 'status', resumable });
}

/** Returns the URL that reads a stream again and, with an action, stops it. Carries a ticket if one is needed. */
export function streamUrl({ auth, config }: FastifyInstance, { id, caller }: Stream, action = ''): string {
  return `${config.basePath}/streams/${id}${action}${auth.createReadTicketQuery(id, caller)}`;
}

/** Conditions under which a response may end before its stream. Without them it never does. */
export type Reconnection = Pick<EventFeed<Slice>, 'canResumeElsewhere' | 'canReconnect'>;

/** Returns the feed of a response that follows a reader. */
export function createEventFeed(
  reader: LogReader,
  encode: (slice: Slice) => OutgoingEvent[],
  reconnection: Reconnection = {},
): EventFeed<Slice> {
  return {
    ...reconnection,
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
 * Returns an error as the only event behind the opening block. The id ends in `.end`, so a reconnect gets 204. A
 * browser treats every status other than 200 and 204 as fatal.
 */
export function errorEvent(error: ErrorPayload, id: string = randomBytes(16).toString('base64url')): EventMessage {
  return { id: `${id}.end`, data: JSON.stringify({ type: 'error', ...error }) };
}

/**
 * Returns the response to an EventSource for which there is no room: an error for a question, the order to come back
 * for a resume. Returns undefined for every other request, which gets the status, and for an invalid Last-Event-ID,
 * which a repetition would not fix.
 */
export function refusalEvents(
  { code, message, retryAfterMs = 0 }: PublicError,
  request: FastifyRequest,
): OutgoingEvent[] | undefined {
  const { access, refusesInBand } = request.routeOptions.config;
  if (!refusesInBand || !/text\/event-stream/i.test(request.headers.accept ?? '')) return undefined;
  const lastEventId = lastEventIdOf(request);
  const point = lastEventId === undefined ? undefined : parseEventId(lastEventId);
  if (lastEventId !== undefined && point === undefined) return undefined;
  const opening = openingBlock(point);
  if (point !== undefined || access === 'read') return [opening];
  return [opening, errorEvent({ code, message, retryable: true, retryAfter: Math.ceil(retryAfterMs / 1000) })];
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
