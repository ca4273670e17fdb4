import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { createEventEncoder, createEventFeed, errorEvent, retryEvent, type Stream, startEvent } from './sse-events.ts';

/** Reading a stream over SSE: from its start, or from where a connection was cut. */

export interface ResumePoint {
  readonly stream: string;
  /** `end`: the terminal event was delivered. */
  readonly position: number | 'end';
}

const LAST_EVENT_ID = /^([A-Za-z0-9_-]{16,64})\.(\d{1,15}|end)$/;

/**
 * Where a client was, by its `Last-Event-ID` header, else by `?lastEventId=`; undefined for a client
 * that is new.
 * @throws 400 for an id that is none of ours
 */
export function parseLastEventId(
  fastify: FastifyInstance,
  { headers, query }: FastifyRequest,
): ResumePoint | undefined {
  const given = headers['last-event-id'] || (query as { lastEventId?: string } | undefined)?.lastEventId;
  if (given === undefined) return undefined;
  const [, stream, position] = LAST_EVENT_ID.exec(String(given)) ?? [];
  if (stream === undefined) throw fastify.httpErrors.badRequest('Last-Event-ID is not the id of an event.');
  return { stream, position: position === 'end' ? 'end' : Number(position) };
}

/** A hook for SSE paths: 406 to a client that wants something else. */
export async function acceptsEvents(this: FastifyInstance, { headers }: FastifyRequest): Promise<void> {
  const { accept = '*/*' } = headers;
  if (/text\/event-stream|text\/\*|\*\/\*/i.test(accept)) return;
  throw this.httpErrors.notAcceptable('This path answers with text/event-stream.');
}

/** From the beginning. */
export async function readFromStart(
  fastify: FastifyInstance,
  stream: Stream,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const reader = await stream.read(0);
  if (reader === undefined) throw new Error('a log without a beginning');
  return reply.stream(
    [startEvent(fastify, stream)],
    createEventFeed(reader, createEventEncoder(stream), () => canResumeElsewhere(fastify, stream)),
  );
}

/** Right behind a place: no loss, no repetition, and never a new generation. */
export async function resume(
  fastify: FastifyInstance,
  point: ResumePoint,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const count = (result: string) => fastify.metrics.resumes.inc({ outcome: result });
  const { stream: id, position } = point;
  if (position === 'end') {
    count('ended');
    return reply.code(204).send();
  }
  return readOrAskToReconnect(request, reply, async () => {
    const stream = await fastify.streams.find(id, request.identity);
    const reader = await stream?.read(position);
    count(reader ? 'hit' : 'unknown');
    // Who comes back is not counted; who guesses is.
    if (!reader) await fastify.limits.countRequest(request.identity, reply);
    if (!stream || !reader) return reply.stream([errorEvent(STREAM_UNKNOWN, id)]);
    return reply.stream(
      [retryEvent()],
      createEventFeed(reader, createEventEncoder(stream), () => canResumeElsewhere(fastify, stream)),
    );
  });
}

function canResumeElsewhere({ streams }: FastifyInstance, { resumable }: Stream): boolean {
  return streams.shared && resumable;
}

/**
 * Reads, or, where the store cannot be asked now, tells an EventSource to come back: any status but
 * 200 would end its reconnecting for good. Other clients get the status.
 */
export async function readOrAskToReconnect(
  request: FastifyRequest,
  reply: FastifyReply,
  read: () => Promise<FastifyReply>,
): Promise<FastifyReply> {
  try {
    return await read();
  } catch (error) {
    if ((error as { statusCode?: number }).statusCode !== 503 || !isEventSource(request)) throw error;
    request.server.metrics.resumes.inc({ outcome: 'unavailable' });
    return reply.stream([retryEvent()]);
  }
}

/** Whether the client is a browser's EventSource, or behaves as one. */
export function isEventSource({ method, headers }: FastifyRequest): boolean {
  return method === 'GET' && /text\/event-stream/i.test(headers.accept ?? '');
}

const STREAM_UNKNOWN = {
  code: 'stream_unknown',
  message: 'This stream, or this place in it, is not kept any more.',
  retryable: false,
};
