import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Stream } from '../plugins/streams/api.ts';
import { reconnectionOf } from './reconnection.ts';
import {
  createEventEncoder,
  createEventFeed,
  errorEvent,
  lastEventIdOf,
  openingBlock,
  parseEventId,
  type ResumePoint,
  startEvent,
} from './sse-events.ts';

/** Reads a stream over SSE: from its start, or from the position where a connection was cut. */

const STREAM_UNKNOWN = {
  code: 'stream_unknown',
  message: 'This stream, or this position in it, does not exist or has expired.',
  retryable: false,
};

/**
 * Returns the resume point of the `Last-Event-ID` header, else of `?lastEventId=`; undefined for a new
 * client. An empty value counts as none.
 * @throws 400 for an id that is not an event id
 */
export function parseLastEventId(fastify: FastifyInstance, request: FastifyRequest): ResumePoint | undefined {
  const id = lastEventIdOf(request);
  if (id === undefined) return undefined;
  const point = parseEventId(id);
  if (point === undefined) throw fastify.httpErrors.badRequest('Last-Event-ID is not the id of an event.');
  return point;
}

/** An `onRequest` hook of SSE routes. @throws 406 if the client does not accept events */
export async function acceptsEvents(this: FastifyInstance, { headers }: FastifyRequest): Promise<void> {
  const { accept = '*/*' } = headers;
  if (/text\/event-stream|text\/\*|\*\/\*/i.test(accept)) return;
  throw this.httpErrors.notAcceptable('This path answers with text/event-stream; change the Accept header.');
}

/**
 * Streams from the beginning.
 * @param reconnects true if the client reconnects by itself with the id of its last event
 */
export async function readFromStart(
  fastify: FastifyInstance,
  stream: Stream,
  reply: FastifyReply,
  reconnects = isEventSource(reply.request),
): Promise<FastifyReply> {
  const reader = await stream.read(0);
  if (reader === undefined) throw new Error('log without a beginning');
  return reply.stream(
    [openingBlock(), startEvent(fastify, stream)],
    createEventFeed(reader, createEventEncoder(stream), reconnectionOf(reply.request, stream, reconnects)),
  );
}

/** Streams from right behind a resume point, without loss or duplicates. Never starts a generation. */
export async function resume(
  fastify: FastifyInstance,
  point: ResumePoint,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const count = (outcome: string) => fastify.metrics.resumes.inc({ outcome });
  const { stream: id, position } = point;
  if (position === 'end') {
    count('ended');
    return reply.code(204).send();
  }
  return readOrAskToReconnect(request, reply, async () => {
    const stream = await fastify.streams.find(id, request.identity);
    const reader = await stream?.read(position);
    count(reader ? 'hit' : 'unknown');
    // A successful resume does not count against the limits; a guess does. Of POST, the request was counted.
    const isCounted = request.method === 'POST';
    if (!reader && !isCounted) await fastify.limits.countGuess(request.identity, reply);
    if (!stream || !reader) return reply.stream([openingBlock(point), errorEvent(STREAM_UNKNOWN, id)]);
    return reply.stream(
      [openingBlock(point)],
      createEventFeed(reader, createEventEncoder(stream), reconnectionOf(request, stream, true)),
    );
  });
}

/**
 * Reads, or asks an EventSource to reconnect if the store is unavailable: it would give up for good on any
 * status but 200. Other clients get the status.
 */
export async function readOrAskToReconnect(
  request: FastifyRequest,
  reply: FastifyReply,
  read: () => Promise<FastifyReply>,
): Promise<FastifyReply> {
  try {
    return await read();
  } catch (error) {
    const { statusCode, retryAfterMs } = error as { statusCode?: number; retryAfterMs?: number };
    const isTemporary = statusCode === 503 || (statusCode === 429 && retryAfterMs !== undefined);
    if (!isTemporary || !isEventSource(request)) throw error;
    request.server.metrics.resumes.inc({ outcome: 'unavailable' });
    return reply.stream([openingBlock(parseLastEventId(request.server, request))]);
  }
}

/** Returns true if the client is a browser's EventSource or behaves like one. */
export function isEventSource({ method, headers }: FastifyRequest): boolean {
  return method === 'GET' && /text\/event-stream/i.test(headers.accept ?? '');
}
