import type { FastifyReply, FastifyRequest } from 'fastify';
import type { AppendSlice, LogReader, Stream } from '../../plugins/streams/api.ts';
import { createEventFeed, jsonEvent, lastEventIdOf, streamUrl } from '../sse-events.ts';
import { createChunkEncoder, openingChunks } from './chunks.ts';
import { parseContext } from './earlier-steps.ts';

/**
 * Reads a stream as the chunks of a UI message. The nth chunk is the same on every replica and in every replay, because
 * each comes from one append of the log.
 */

/** A place in the chunks of a stream. */
export interface ChunkPoint {
  readonly stream: string;
  /** Number of chunks before it; `end` if the last event was delivered. */
  readonly chunks: number | 'end';
}

const CHUNK_ID = /^([A-Za-z0-9_-]{16,64})\.(?:c(\d{1,9})|end)$/;

/** Milliseconds to wait for chunks that the client has, on a replica that has just begun to copy the stream. */
const KNOWN_CHUNKS_MS = 2_000;
/** Milliseconds without another chunk after which the chunks so far count as all. */
const PAUSE_MS = 100;

/** Returns the place that the `Last-Event-ID` names; undefined without one. @throws 400 for an id of another kind */
export function parseChunkPoint(request: FastifyRequest): ChunkPoint | undefined {
  const id = lastEventIdOf(request);
  if (id === undefined) return undefined;
  const [, stream, chunks] = CHUNK_ID.exec(id) ?? [];
  if (stream === undefined) {
    throw request.server.httpErrors.badRequest('Last-Event-ID is not the id of an event of this API.');
  }
  return { stream, chunks: chunks === undefined ? 'end' : Number(chunks) };
}

/** Returns the only event for a place that does not exist. A client must not come back for it. */
export function unknownChunk(stream: string) {
  const errorText = 'This stream, or this position in it, does not exist or has expired.';
  return { ...jsonEvent({ type: 'error', errorText }), id: `${stream}.end` };
}

/** Streams an answer from its start, for a page that builds its message again: the earlier steps of that come first. */
export async function replay(stream: Stream, reply: FastifyReply): Promise<FastifyReply> {
  const { messageId, earlier } = parseContext(stream.context) ?? {};
  // Without the earlier steps, a message of its own leaves that of the page as it is.
  if (messageId === undefined || earlier === undefined) return readChunks(stream, reply, 0, stream.id);
  const encoder = createChunkEncoder(stream.id);
  const [start = {}, ...others] = opening(stream, reply, messageId);
  encoder.number([start]);
  // Without ids: a client that is cut here has to get all of them again.
  const events = [...[start, ...earlier].map(jsonEvent), ...encoder.number(others)];
  return follow(stream, reply, await attach(stream), encoder, events);
}

/**
 * Streams the chunks of an answer behind the first `skipped`; 204 if the answer has ended before that.
 * @param skipped negative: from the end, as far as the answer has come
 */
export async function readChunks(
  stream: Stream,
  reply: FastifyReply,
  skipped: number,
  messageId = parseContext(stream.context)?.messageId ?? stream.id,
): Promise<FastifyReply> {
  let after = skipped;
  if (skipped < 0) {
    const count = await countChunks(stream, reply, messageId);
    reply.header('x-workflow-stream-tail-index', count - 1);
    after = Math.max(0, count + skipped);
  }
  const encoder = createChunkEncoder(stream.id, after);
  const reader = await attach(stream);
  const events = encoder.number(opening(stream, reply, messageId));
  let pending: Promise<AppendSlice> | undefined;
  while (encoder.count < after) {
    pending = reader.next();
    const slice = await reply.server.waitAtMost(KNOWN_CHUNKS_MS, pending).catch((error: unknown) => {
      reader.close();
      throw error;
    });
    if (slice === undefined) break;
    pending = undefined;
    events.push(...encoder.encode(slice));
    if (slice.terminal === undefined) continue;
    reader.close();
    return encoder.count > after ? reply.headers(headersOf(stream)).stream(events) : reply.code(204).send();
  }
  const next = () => {
    const slice = pending ?? reader.next();
    pending = undefined;
    return slice;
  };
  return follow(stream, reply, { next, close: () => reader.close() }, encoder, events);
}

/** Counts the chunks so far. */
async function countChunks(stream: Stream, reply: FastifyReply, messageId: string): Promise<number> {
  const encoder = createChunkEncoder(stream.id);
  encoder.number(opening(stream, reply, messageId));
  const reader = await attach(stream);
  try {
    for (;;) {
      const slice = await reply.server.waitAtMost(PAUSE_MS, reader.next());
      if (slice !== undefined) encoder.encode(slice);
      if (slice === undefined || slice.terminal !== undefined) return encoder.count;
    }
  } finally {
    reader.close();
  }
}

async function attach(stream: Stream): Promise<LogReader<AppendSlice>> {
  const reader = await stream.readAppends(0);
  if (reader === undefined) throw new Error('log without a beginning');
  return reader;
}

function opening(stream: Stream, { server }: FastifyReply, messageId: string): object[] {
  const urls = { url: streamUrl(server, stream), stopUrl: streamUrl(server, stream, '/stop') };
  return openingChunks(stream, urls, messageId);
}

function headersOf({ id }: Stream) {
  return { 'x-vercel-ai-ui-message-stream': 'v1', 'x-sluice-stream': id, 'x-workflow-run-id': id };
}

function follow(
  stream: Stream,
  reply: FastifyReply,
  reader: LogReader<AppendSlice>,
  encoder: ReturnType<typeof createChunkEncoder>,
  events: ReturnType<typeof encoder.encode>,
): FastifyReply {
  reply.headers(headersOf(stream));
  return reply.stream(events, createEventFeed(reader, encoder.encode));
}
