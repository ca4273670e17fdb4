import type { IdFirstEvent } from '../../plugins/sse/api.ts';
import type { ContentPart, PlacedPart, ProviderState, Slice, Terminal } from '../../plugins/streams/api.ts';
import type { EventId } from './event-id.ts';
import { formatEventId } from './event-id.ts';
import { type AguiEvent, errorEvent, finishedEvent, INCOMPLETE_CALL, type RunContext } from './run-events.ts';

/**
 * Encodes an answer as AG-UI events. Their ids depend on the answer alone, so they are equal on every replica and in
 * every replay, whatever was merged:
 *
 * - An event with content has the position at which its content ends. The head of a tool call is one unit of content.
 * - Events between two contents have the position between them, and a number: 1, 2, 3 …
 * - The last event has no position: the id of the stream, and `.end`.
 */

type ToolPart = Extract<ContentPart, { type: 'tool_call' }>;
type TextType = 'text' | 'reasoning';
type End = Extract<Terminal, { type: 'end' }>;

interface Call {
  readonly toolCallId: string;
  readonly toolCallName: string;
  arguments: string;
}

export interface EncoderOptions extends RunContext {
  /** The last event that the client has, `end` for the last one of the run; the first by default. */
  readonly after?: EventId | 'end' | undefined;
}

/** Is behind every event with a position. */
const END: EventId = { position: Number.POSITIVE_INFINITY, number: 0 };

/** A class instead of closures: there can be many readers, and methods are shared. */
export class AguiEncoder {
  readonly #options: EncoderOptions;
  readonly #after: EventId;
  readonly #calls = new Map<number, Call>();
  #events: IdFirstEvent[] = [];
  /** Position up to which content was read. */
  #position = 0;
  /** Number of the last event between two contents. */
  #number = 0;
  /** The text or reasoning that is being sent. */
  #open: { readonly type: TextType; readonly messageId: string } | undefined;
  /** The message that tool calls belong to. */
  #assistantId: string | undefined;
  #messages = 0;

  constructor(options: EncoderOptions) {
    this.#options = options;
    const { after = { position: 0, number: 0 } } = options;
    this.#after = after === 'end' ? END : after;
  }

  /** True as long as slices may hold what the client already has. */
  get isCatchingUp(): boolean {
    return this.#position < this.#after.position;
  }

  /** Returns true if the client already has everything of a slice. */
  skips({ parts, terminal }: Slice): boolean {
    return terminal === undefined && (parts.at(-1)?.position ?? 0) < this.#after.position;
  }

  /** Returns the events of the next slice that are behind the last event of the client. */
  encode({ parts, terminal }: Slice): IdFirstEvent[] {
    this.#events = [];
    for (const part of parts) this.#onPart(part);
    if (terminal?.type === 'end') this.#onEnd(terminal);
    else if (terminal) {
      this.#close();
      this.#sendLast(errorEvent(terminal));
    }
    return this.#events;
  }

  #onPart({ part, position }: PlacedPart): void {
    if (part.type === 'tool_call') {
      this.#onCall(part, position);
      return;
    }
    // A message without content would be missing in a replay.
    if (part.text === '') return;
    if (this.#open?.type !== part.type) {
      this.#close();
      this.#openMessage(part.type);
    }
    const messageId = this.#open?.messageId;
    const type = part.type === 'text' ? 'TEXT_MESSAGE_CONTENT' : 'REASONING_MESSAGE_CONTENT';
    this.#sendContent(part.text, position, (delta) => ({ type, messageId, delta }));
  }

  #onCall(part: ToolPart, position: number): void {
    const hasHead = part.id !== undefined || part.name !== undefined;
    if (!hasHead && part.arguments === '') return;
    this.#close();
    let call = this.#calls.get(part.index);
    if (call === undefined) {
      call = { toolCallId: part.id ?? '', toolCallName: part.name ?? '', arguments: '' };
      this.#calls.set(part.index, call);
      this.#assistantId ??= this.#newMessageId();
      const { toolCallId, toolCallName } = call;
      const start = { type: 'TOOL_CALL_START', toolCallId, toolCallName, parentMessageId: this.#assistantId };
      if (hasHead) {
        this.#position = position - part.arguments.length;
        this.#number = 0;
        this.#send(start, { position: this.#position, number: 0 });
      } else this.#sendBetween(start);
    }
    const { toolCallId } = call;
    call.arguments += part.arguments;
    this.#sendContent(part.arguments, position, (delta) => ({ type: 'TOOL_CALL_ARGS', toolCallId, delta }));
  }

  /** Sends the content that ends at a position, from where the client has it on. */
  #sendContent(content: string, position: number, toEvent: (delta: string) => AguiEvent): void {
    if (content === '') return;
    const known = content.length - (position - this.#after.position);
    this.#position = position;
    this.#number = 0;
    if (known >= content.length) return;
    this.#send(toEvent(known > 0 ? content.slice(known) : content), { position, number: 0 });
  }

  #openMessage(type: TextType): void {
    const messageId = this.#newMessageId();
    this.#open = { type, messageId };
    if (type === 'text') {
      this.#assistantId = messageId;
      this.#sendBetween({ type: 'TEXT_MESSAGE_START', messageId, role: 'assistant' });
    } else {
      this.#sendBetween({ type: 'REASONING_START', messageId });
      this.#sendBetween({ type: 'REASONING_MESSAGE_START', messageId, role: 'reasoning' });
    }
  }

  #close(): void {
    const { type, messageId } = this.#open ?? {};
    this.#open = undefined;
    if (type === 'text') this.#sendBetween({ type: 'TEXT_MESSAGE_END', messageId });
    if (type !== 'reasoning') return;
    this.#sendBetween({ type: 'REASONING_MESSAGE_END', messageId });
    this.#sendBetween({ type: 'REASONING_END', messageId });
  }

  /** Ends the run. Tool calls end here, because only the end of the answer says that their arguments are complete. */
  #onEnd(end: End): void {
    this.#close();
    const inputs = [...this.#calls.values()].map((call) => toolInput(call, end.finishReason));
    // A call that was cut off must not run.
    const isCutOff = inputs.includes(undefined);
    if (!isCutOff) this.#endCalls(end, inputs);
    this.#sendLast(isCutOff ? INCOMPLETE_CALL : finishedEvent(end, this.#options));
  }

  #endCalls({ state }: End, inputs: ReturnType<typeof toolInput>[]): void {
    for (const [index, { toolCallId, toolCallName, arguments: given }] of this.#calls) {
      if (given === '') this.#sendBetween({ type: 'TOOL_CALL_ARGS', toolCallId, delta: '{}' });
      const encryptedValue = state && stateOf(state, index);
      const entity = { subtype: 'tool-call', entityId: toolCallId };
      if (encryptedValue) this.#sendBetween({ type: 'REASONING_ENCRYPTED_VALUE', ...entity, encryptedValue });
      this.#sendBetween({ type: 'TOOL_CALL_END', toolCallId });
      // TanStack AI runs a tool of the page at this event.
      const value = { toolCallId, toolName: toolCallName, input: inputs.shift()?.value };
      this.#sendBetween({ type: 'CUSTOM', name: 'tool-input-available', value });
    }
  }

  #sendBetween(event: AguiEvent): void {
    this.#number += 1;
    this.#send(event, { position: this.#position, number: this.#number });
  }

  #send(event: AguiEvent, id: EventId): void {
    const { position, number } = this.#after;
    if (id.position < position || (id.position === position && id.number <= number)) return;
    this.#events.push({ idFirst: true, id: formatEventId(this.#options.stream.id, id), data: JSON.stringify(event) });
  }

  /** Sends the last event. A client that has it already gets it without an id: TanStack AI ignores ids that it knows. */
  #sendLast(event: AguiEvent): void {
    const id = `${this.#options.stream.id}.end`;
    this.#events.push({ idFirst: true, ...(this.#after !== END && { id }), data: JSON.stringify(event) });
  }

  #newMessageId(): string {
    return `${this.#options.stream.id}-${this.#messages++}`;
  }
}

/**
 * Returns what the provider wants back with one tool call, as JSON; the first call has what belongs to all. Clients send
 * it back as `encryptedValue` of the call.
 */
function stateOf({ provider, details, extraContent }: ProviderState, index: number): string | undefined {
  const content = extraContent?.[index];
  if (content === undefined && (index > 0 || details === undefined)) return undefined;
  return JSON.stringify({ provider, ...(index === 0 && { details }), extraContent: content });
}

/** Returns the parsed arguments of a call; undefined for a call that was cut off, which must not run. */
function toolInput(call: Call, finishReason: End['finishReason']): { value: unknown } | undefined {
  if (finishReason === 'stopped' || (finishReason === 'length' && call.arguments === '')) return undefined;
  try {
    return { value: JSON.parse(call.arguments === '' ? '{}' : call.arguments) };
  } catch {
    return undefined;
  }
}
