import { randomBytes } from 'node:crypto';
import type { EventMessage, FastifyInstance } from 'fastify';

/** Sluice's own events, as every SSE path sends them: JSON in `data`, a position in `id`. */

export type Stream = Awaited<ReturnType<FastifyInstance['streams']['start']>>;
export type Reader = NonNullable<Awaited<ReturnType<Stream['read']>>>;
export type Slice = Awaited<ReturnType<Reader['next']>>;
export type ContentPart = Slice['parts'][number]['part'];
export type Terminal = NonNullable<Slice['terminal']>;

/** Spread out, so that a restarted service is not met by all its readers at once. */
const RETRY_MS = { least: 500, spread: 1_000 };

/** How soon to come back. Sent alone, it is also the first byte that a gateway sees. */
export function retryEvent(): { retry: number } {
  return { retry: RETRY_MS.least + Math.floor(Math.random() * RETRY_MS.spread) };
}

/** The first event of a stream. It leaves before the upstream has answered. */
export function startEvent(fastify: FastifyInstance, stream: Stream): EventMessage {
  const { id, model, resumable } = stream;
  const start = { type: 'start', stream: id, model, url: streamUrl(fastify, stream), resumable };
  return { id: `${id}.0`, ...retryEvent(), data: JSON.stringify(start) };
}

/** Whether the stream can be resumed, where that has changed. It has no id: it is no place in the answer. */
function statusEvent(resumable: boolean): EventMessage {
  return jsonEvent({ type: 'status', resumable });
}

/** Where a stream is read again, and stopped; with a ticket where one is needed. */
export function streamUrl({ auth, config }: FastifyInstance, { id, owner }: Stream, action = ''): string {
  return `${config.basePath}/streams/${id}${action}${auth.createReadTicketQuery(id, owner)}`;
}

/**
 * What a reader gives, as events. `canMove`: whether the client comes back by itself for what is left,
 * and another replica has it.
 */
export function createEventFeed(
  reader: Reader,
  encode: (slice: Slice) => EventMessage[],
  canResumeElsewhere = () => false,
) {
  return {
    canMove: canResumeElsewhere,
    next: () => reader.next(),
    close: () => reader.close(),
    isLast: (slice: Slice) => slice.terminal !== undefined,
    encode,
  };
}

/** An event without id or name, in which other protocols send their chunks. */
export function jsonEvent(value: object): EventMessage {
  return { data: JSON.stringify(value) };
}

/** Gemini and Ollama name no id, and clients want one: the same each time the stream is read. */
export function toolCallId({ id, index }: Extract<ContentPart, { type: 'tool_call' }>, stream: Stream): string {
  return id ?? `call_${stream.id}_${index}`;
}

/** A slice as our own events. */
export function createEventEncoder({ id, model }: Stream): (slice: Slice) => EventMessage[] {
  return ({ parts, terminal, answer, resumable }) => {
    const events: EventMessage[] = parts.map(({ part, position }) => ({
      id: `${id}.${position}`,
      data: JSON.stringify(contentPayload(part)),
    }));
    if (resumable !== undefined) events.push(statusEvent(resumable));
    if (terminal) events.push({ id: `${id}.end`, data: JSON.stringify(terminalPayload(terminal, model, answer)) });
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
 * A failure as the only event. Its id says that nothing follows, so that a reconnect is answered 204:
 * a browser takes no other status than these two for anything but the end of all.
 */
export function errorEvent(failure: ErrorPayload, id: string = randomBytes(16).toString('base64url')): EventMessage {
  return { id: `${id}.end`, data: JSON.stringify({ type: 'error', ...failure }) };
}

function contentPayload(part: ContentPart): object {
  if (part.type === 'tool_call') return part;
  return { type: part.type === 'text' ? 'delta' : 'reasoning', content: part.text };
}

function terminalPayload(terminal: Terminal, model: string, answer: string | undefined): object {
  if (terminal.type === 'end') {
    const { finishReason, usage, targets } = terminal;
    return { type: 'end', answer, model, finishReason, usage, targets };
  }
  const { retryAfterMs, status: _, ...error } = terminal;
  return { ...error, ...(retryAfterMs !== undefined && { retryAfter: Math.ceil(retryAfterMs / 1000) }) };
}
