import { setImmediate as nextTurn } from 'node:timers/promises';
import type { EventMessage, FastifyInstance, FastifyReply } from 'fastify';
import type { EventFeed } from '../../plugins/sse/api.ts';
import type { ContentPart, LogReader, Slice, Stream, Terminal } from '../../plugins/streams/api.ts';
import { type EncoderOptions, type PendingEvent, ResponseEncoder, serialize } from './events.ts';
import { TextMemory } from './text-memory.ts';

/** Reads an answer: as events, or whole. */

/** Events that are written at once. */
interface Batch {
  readonly events: readonly PendingEvent[];
  readonly isLast: boolean;
  /** True if the response breaks off here, so that the client comes back. */
  readonly isCut?: boolean;
}

const CUT: Batch = { events: [], isLast: true, isCut: true };

/** Length of an answer from which each event that repeats it is written alone. */
const LONG_TEXT_UNITS = 16_384;

/**
 * Streams the events of an answer that are behind `after`.
 * @param reader of appends, from the first one
 */
export function sendEvents(
  fastify: FastifyInstance,
  stream: Stream,
  reader: LogReader,
  options: EncoderOptions,
  reply: FastifyReply,
): FastifyReply {
  const { opening, feed } = openFeed(fastify, stream, reader, options);
  return send(stream, opening, feed, reply);
}

/**
 * Streams the events of an answer that has ended, as `sendEvents` does.
 * @throws the error that `isBeyond` returns, if there is no event `after`
 */
export async function sendEndedEvents(
  fastify: FastifyInstance,
  stream: Stream,
  reader: LogReader,
  options: EncoderOptions & { isBeyond(): Error },
  reply: FastifyReply,
): Promise<FastifyReply> {
  const { opening, feed, encoder } = openFeed(fastify, stream, reader, options);
  let first: Promise<Batch> | undefined = feed.next();
  // A read that fails does so again below, where the response breaks off.
  const batch = await first.catch(() => undefined);
  if (batch?.isLast && !batch.isCut && encoder.isCatchingUp) {
    feed.close();
    throw options.isBeyond();
  }
  const next = () => {
    const known = first;
    first = undefined;
    return known ?? feed.next();
  };
  return send(stream, opening, { ...feed, next }, reply);
}

function openFeed({ streams, limits }: FastifyInstance, stream: Stream, reader: LogReader, options: EncoderOptions) {
  const encoder = new ResponseEncoder(options);
  const opening = encoder.open().map(serialize);
  const memory = new TextMemory(limits, stream.caller);
  const feed = createFeed(reader, encoder, memory, () => streams.shared && stream.resumable);
  return { encoder, opening, feed };
}

function send({ id }: Stream, opening: EventMessage[], feed: EventFeed<Batch>, reply: FastifyReply): FastifyReply {
  reply.header('x-sluice-stream', id);
  return reply.stream(opening, feed);
}

function createFeed(
  reader: LogReader,
  encoder: ResponseEncoder,
  memory: TextMemory,
  canResumeElsewhere: () => boolean,
): EventFeed<Batch> {
  let waiting: Batch[] = [];
  let isClosed = false;
  const next = async (): Promise<Batch> => {
    for (;;) {
      // The client may leave between two reads.
      if (isClosed) return CUT;
      const batch = waiting.shift();
      if (batch) return batch;
      const wasCatchingUp = encoder.isCatchingUp;
      const slice = await reader.next();
      const events = encoder.encode(slice);
      try {
        if (memory.cover(encoder.length)) encoder.compact();
      } catch {
        return CUT;
      }
      waiting = toBatches(events, encoder.length, slice.terminal !== undefined);
      // Other responses would wait for the whole replay.
      if (wasCatchingUp) await nextTurn();
    }
  };
  return {
    next,
    close() {
      isClosed = true;
      memory.release();
      reader.close();
    },
    encode: ({ events }) => events.map(serialize),
    isLast: ({ isLast }) => isLast,
    breaksOff: ({ isCut = false }) => isCut,
    canResumeElsewhere,
    // For the SDKs, a response that ends well before its last event would be the end of all.
    breaksOffEarly: true,
  };
}

/** Divides the events of one read, so that of those that repeat a long text only one is serialized at a time. */
function toBatches(events: readonly PendingEvent[], textUnits: number, isEnd: boolean): Batch[] {
  if (textUnits < LONG_TEXT_UNITS) return events.length > 0 || isEnd ? [{ events, isLast: isEnd }] : [];
  const batches: PendingEvent[][] = [];
  for (const event of events) {
    const last = batches.at(-1);
    if (last && event.type.endsWith('.delta')) last.push(event);
    else batches.push([event]);
  }
  if (isEnd && batches.length === 0) batches.push([]);
  return batches.map((one, i) => ({ events: one, isLast: isEnd && i === batches.length - 1 }));
}

/** Reads an answer to its end. The caller closes the reader. */
export async function readAnswer(reader: LogReader): Promise<{ parts: ContentPart[]; terminal: Terminal }> {
  const parts: ContentPart[] = [];
  for (;;) {
    const slice: Slice = await reader.next();
    for (const { part } of slice.parts) parts.push(part);
    if (slice.terminal) return { parts, terminal: slice.terminal };
  }
}
