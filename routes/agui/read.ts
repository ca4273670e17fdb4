import { setImmediate as nextTurn } from 'node:timers/promises';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { EventFeed } from '../../plugins/sse/api.ts';
import type { LogReader, Slice, Stream } from '../../plugins/streams/api.ts';
import { reconnectionOf } from '../reconnection.ts';
import { createEventFeed, type Reconnection, streamUrl } from '../sse-events.ts';
import { parseEventId, type ResumePoint } from './event-id.ts';
import { AguiEncoder } from './events.ts';
import { errorEvent, startedEvent } from './run-events.ts';
import { type RunNames, runNamesOf } from './run-names.ts';

/** Reads a run as AG-UI events: from its start, or from the event at which a connection was cut. */

const STREAM_UNKNOWN = {
  type: 'error',
  code: 'stream_unknown',
  message: 'This run, or this position in it, does not exist or has expired.',
  retryable: false,
  status: 404,
} as const;

/** The feed of a response that has only headers, and then breaks off. */
const CUT: EventFeed<undefined> = {
  next: async () => undefined,
  close() {},
  encode: () => [],
  isLast: () => true,
  breaksOff: () => true,
};

/**
 * Returns the resume point of the `Last-Event-ID` header, else of `?lastEventId=`, else of `?offset=`; undefined for a
 * client that has nothing yet. `offset=-1` is the start.
 * @throws 400 for an id that is not an event id
 */
export function resumePointOf({ server, headers, query }: FastifyRequest): ResumePoint | undefined {
  const { lastEventId, offset } = (query ?? {}) as { lastEventId?: string; offset?: string };
  const given = headers['last-event-id'] || lastEventId || (offset === '-1' ? undefined : offset);
  if (!given) return undefined;
  const point = parseEventId(String(given));
  if (point === undefined) throw server.httpErrors.badRequest('Last-Event-ID or offset is not the id of an event.');
  return point;
}

/**
 * Streams a run from its start.
 * @param reconnects true if the client reconnects by itself with the id of its last event
 */
export async function readRun(
  fastify: FastifyInstance,
  stream: Stream,
  run: RunNames,
  reply: FastifyReply,
  reconnects: boolean,
): Promise<FastifyReply> {
  const options = { stream, run };
  const reader = await stream.read(0);
  if (reader === undefined) throw new Error('log without a beginning');
  const urls = { url: streamUrl(fastify, stream), stopUrl: streamUrl(fastify, stream, '/stop') };
  reply.header('x-sluice-stream', stream.id);
  return reply.stream(
    [startedEvent(options, urls)],
    createFeed(reader, new AguiEncoder(options), reconnectionOf(reply.request, stream, reconnects)),
  );
}

/**
 * Streams a run from right behind an event. Never starts a generation. If the run cannot be read now, the connection is
 * cut: clients come back then, but take an error status for final.
 *
 * A client that has the last event gets it again, without its id: TanStack AI reports an error for an empty response.
 */
export async function resumeRun(
  fastify: FastifyInstance,
  { stream: id, after }: ResumePoint,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const count = (outcome: string) => fastify.metrics.resumes.inc({ outcome });
  try {
    const stream = await fastify.streams.find(id, request.identity);
    const isEnd = after === 'end';
    // The reader starts at the beginning, because the next event depends on what came before.
    const run = stream && runNamesOf(stream);
    const reader = run && (await stream.read(0, isEnd ? 0 : after.position));
    if (reader) {
      count(isEnd ? 'ended' : 'hit');
      reply.header('x-sluice-stream', id);
      const encoder = new AguiEncoder({ stream, run, after });
      return reply.stream([], createFeed(reader, encoder, reconnectionOf(request, stream, true)));
    }
    count(isEnd ? 'ended' : 'unknown');
    if (isEnd) return reply.code(204).send();
    // Of POST, the request was counted.
    if (request.method !== 'POST') await fastify.limits.countGuess(request.identity, reply);
    return reply.stream([{ id: `${id}.end`, data: JSON.stringify(errorEvent(STREAM_UNKNOWN)) }]);
  } catch (error) {
    if (!isTemporary(error)) throw error;
    count('unavailable');
    return reply.stream([], CUT);
  }
}

function isTemporary(error: unknown): boolean {
  const { statusCode, retryAfterMs } = error as { statusCode?: number; retryAfterMs?: number };
  return statusCode === 503 || (statusCode === 429 && retryAfterMs !== undefined);
}

function createFeed(reader: LogReader, encoder: AguiEncoder, reconnection: Reconnection): EventFeed<Slice> {
  const encode = (slice: Slice) => encoder.encode(slice);
  return {
    ...createEventFeed(reader, encode, reconnection),
    breaksOffEarly: true,
    next: () => (encoder.isCatchingUp ? skipKnown(reader, encoder) : reader.next()),
  };
}

/** Reads the slices that a client already has, one in each turn of the event loop, and returns the next one. */
async function skipKnown(reader: LogReader, encoder: AguiEncoder): Promise<Slice> {
  for (;;) {
    const slice = await reader.next();
    if (!encoder.skips(slice)) return slice;
    encoder.encode(slice);
    await nextTurn();
  }
}
