import type { EventMessage } from 'fastify';
import type { ContentPart, Slice, Terminal } from '../../plugins/streams/api.ts';
import type { ResponseContext } from './context.ts';
import { Output } from './output.ts';
import { endedResponse, pendingResponse, type ResponseHead, statusOf } from './response-object.ts';

/**
 * Encodes an answer as the events of OpenAI's Responses API.
 *
 * The `sequence_number` of an event depends on the appends of the log and on the context of the stream alone. It is the same
 * on every replica and in every replay, so a client can continue behind any event.
 */

export interface EncoderOptions {
  readonly head: ResponseHead;
  readonly context: ResponseContext;
  /** Number of the last event that the client has; -1 for none. */
  readonly after: number;
}

/** An event that is not serialized yet: the last ones repeat the whole answer. */
export interface PendingEvent {
  readonly type: string;
  readonly sequence: number;
  readonly place: string;
  readonly fields: object;
}

/** A class instead of closures: there can be many readers, and methods are shared. */
export class ResponseEncoder {
  readonly #options: EncoderOptions;
  readonly #output: Output;
  #events: PendingEvent[] = [];
  #sequence = 0;
  /** Length of the content so far. */
  length = 0;

  constructor(options: EncoderOptions) {
    this.#options = options;
    const { head, context } = options;
    const send = (type: string, place: string, fields: object) => this.#send(type, place, fields);
    this.#output = new Output({ stream: head.stream, hasState: context.hasState, send });
  }

  /**
   * True as long as slices hold only what the client already has; at the end of the answer, if the client names an event
   * behind the last one.
   */
  get isCatchingUp(): boolean {
    return this.#sequence <= this.#options.after;
  }

  /** Returns the first events, which do not depend on the answer. Call once, before `encode`. */
  open(): PendingEvent[] {
    const { head, context } = this.#options;
    this.#events = [];
    if (context.background) {
      this.#send('response.created', '', { response: pendingResponse(head, 'queued') });
      this.#send('response.queued', '', { response: pendingResponse(head, 'queued') });
    } else this.#send('response.created', '', { response: pendingResponse(head, 'in_progress') });
    this.#send('response.in_progress', '', { response: pendingResponse(head, 'in_progress') });
    return this.#events;
  }

  /** Returns the events of the next appends that are behind the last event of the client. */
  encode({ parts, terminal }: Slice): PendingEvent[] {
    this.#events = [];
    for (const { part } of parts) {
      this.length += part.type === 'tool_call' ? part.arguments.length : part.text.length;
      this.#output.add(part);
    }
    if (terminal) this.#end(terminal);
    return this.#events;
  }

  /** Joins in memory what has come in pieces. */
  compact(): void {
    this.#output.compact();
  }

  #end(terminal: Terminal): void {
    if (terminal.type === 'end') this.#output.end(terminal);
    else this.#output.fail();
    const response = endedResponse(this.#options.head, terminal, this.#output.items);
    const status = statusOf(terminal);
    // The specification has no event for a response that was cancelled.
    this.#send(`response.${status === 'cancelled' ? 'incomplete' : status}`, '', { response }, true);
  }

  /** @param isLast the last event is also sent to a client that names a later one, so that it knows of the end */
  #send(type: string, place: string, fields: object, isLast = false): void {
    const sequence = this.#sequence++;
    if (sequence > this.#options.after || (isLast && sequence < this.#options.after))
      this.#events.push({ type, sequence, place, fields });
  }
}

/** Serializes an event. The type is also the name, as OpenAI sends it. */
export function serialize({ type, sequence, place, fields }: PendingEvent): EventMessage {
  const rest = JSON.stringify(fields).slice(1);
  return { event: type, data: `{"type":"${type}","sequence_number":${sequence},${place}${rest}` };
}

/** Returns the response of an answer that has ended. @param parts in order, divided in any way */
export function responseOf(
  head: ResponseHead,
  { hasState }: Pick<ResponseContext, 'hasState'>,
  {
    parts,
    terminal,
    completedAt,
  }: { parts: Iterable<ContentPart>; terminal: Terminal; completedAt?: number | undefined },
): object {
  const output = new Output({ stream: head.stream, hasState, send: () => {} });
  for (const part of parts) output.add(part);
  if (terminal.type === 'end') output.end(terminal);
  else output.fail();
  return endedResponse(head, terminal, output.items, completedAt);
}
