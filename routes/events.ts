import type { EventMessage, FastifyInstance } from 'fastify';

/** Sluice's own events, as `/ask/stream` sends them: JSON in `data`, a position in `id`. */

type Stream = ReturnType<FastifyInstance['streams']['start']>;
type Reader = ReturnType<Stream['read']>;
type Slice = Awaited<ReturnType<Reader['next']>>;
type Part = Slice['parts'][number];
type Terminal = NonNullable<Slice['terminal']>;

/** Spread out, so that a restarted service is not met by all its readers at once. */
const RETRY_MS = { least: 500, spread: 1_000 };

/** The first event. It leaves before the upstream has answered. */
export function startEvent(stream: Stream): EventMessage {
  return {
    id: `${stream.id}.0`,
    retry: RETRY_MS.least + Math.floor(Math.random() * RETRY_MS.spread),
    data: JSON.stringify({ type: 'start', stream: stream.id, model: stream.model, resumable: false }),
  };
}

/** What a reader gives, as events. */
export function eventsOf(stream: Stream, reader: Reader) {
  return {
    next: reader.next,
    close: reader.close,
    isLast: (slice: Slice) => slice.terminal !== undefined,
    encode: (slice: Slice) => encode(stream, slice),
  };
}

function encode({ id, model }: Stream, { from, parts, terminal, answer }: Slice): EventMessage[] {
  let position = from;
  const events = parts.map((part) => {
    position += part.type === 'tool_call' ? 1 : part.text.length;
    return { id: `${id}.${position}`, data: JSON.stringify(content(part)) };
  });
  if (terminal) events.push({ id: `${id}.end`, data: JSON.stringify(last(terminal, model, answer)) });
  return events;
}

function content(part: Part): object {
  if (part.type === 'tool_call') return part;
  return { type: part.type === 'text' ? 'delta' : 'reasoning', content: part.text };
}

function last(terminal: Terminal, model: string, answer: string | undefined): object {
  if (terminal.type === 'end') {
    const { finishReason, usage } = terminal;
    return { type: 'end', answer, model, finishReason, usage };
  }
  const { retryAfterMs, ...error } = terminal;
  return { ...error, ...(retryAfterMs !== undefined && { retryAfter: Math.ceil(retryAfterMs / 1000) }) };
}
