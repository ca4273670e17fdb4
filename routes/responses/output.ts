import type { ContentPart, ProviderState, Terminal } from '../../plugins/streams/api.ts';
import { outputItemId } from './ids.ts';
import {
  type CallItem,
  type EventSink,
  isWhole,
  type MessageItem,
  type OutputItem,
  type OutputText,
  type ReasoningItem,
  type Refusal,
  type Status,
  snapshotOf,
  textsOf,
} from './items.ts';
import { encodeState } from './reasoning-state.ts';

/** Builds the output items of a response from the parts of an answer, and reports each step as an event. */

export interface OutputOptions {
  readonly stream: string;
  readonly send: EventSink;
  /** True if the output ends with an item that holds the state of the provider. */
  readonly hasState: boolean;
}

type ToolPart = Extract<ContentPart, { type: 'tool_call' }>;
type TextPart = Exclude<ContentPart, ToolPart>;
type End = Extract<Terminal, { type: 'end' }>;

/** The message or reasoning that is being written. */
interface OpenText {
  readonly item: MessageItem | ReasoningItem;
  readonly at: string;
  readonly of: string;
  /** Place of the part that is being written, in its item. */
  part: string;
}

interface Call {
  readonly item: CallItem;
  readonly at: string;
  readonly of: string;
}

/**
 * A class instead of closures: there can be many readers, and methods are shared.
 *
 * One item is written after another, as OpenAI does. A call whose arguments are not complete when another item begins stays
 * open, because some providers send the fragments of several calls in turn.
 */
export class Output {
  readonly items: OutputItem[] = [];
  readonly #options: OutputOptions;
  #text: OpenText | undefined;
  readonly #calls = new Map<number, Call>();
  #call: Call | undefined;

  constructor(options: OutputOptions) {
    this.#options = options;
  }

  /** Adds the next part of the answer. The items do not depend on how parts are divided. */
  add(part: ContentPart): void {
    if (part.type === 'tool_call') this.#addToCall(part);
    else if (part.text !== '') this.#addText(part);
  }

  /** Ends all items of an answer that has ended well, or was cut by a limit, a filter or a stop. */
  end({ finishReason, state }: End): void {
    const isEnd = finishReason === 'stop' || finishReason === 'tool_calls';
    this.#closeText(isEnd ? 'completed' : 'incomplete');
    for (const call of this.#calls.values()) {
      if (isEnd || (finishReason === 'length' && isWhole(call.item))) this.#closeCall(call);
    }
    this.#leaveOpenCalls();
    if (state && this.#options.hasState) this.#addState(state);
  }

  /** Leaves what is open as it is, without an event: the answer has failed. */
  fail(): void {
    if (this.#text) this.#text.item.status = 'incomplete';
    this.#leaveOpenCalls();
  }

  /**
   * Joins the texts that are being written. A string that has grown by many small pieces takes several times its length,
   * until one of its characters is read.
   */
  compact(): void {
    for (const item of this.items) {
      if (item.status === 'in_progress') for (const text of textsOf(item)) text.charCodeAt(0);
    }
  }

  #addText({ type, text, isRefusal }: TextPart): void {
    this.#leaveCall();
    const kind = type === 'text' ? 'message' : 'reasoning';
    if (this.#text?.item.type !== kind) {
      this.#closeText('completed');
      this.#text = this.#openItem(kind);
    }
    const open = this.#text as OpenText;
    if (open.item.type === 'reasoning') this.#addSummary(open.item, open, text);
    else if (isRefusal) this.#addRefusal(open.item, open, text);
    else this.#addOutputText(open.item, open, text);
  }

  #openItem(kind: 'message' | 'reasoning'): OpenText {
    const id = outputItemId(kind, this.#options.stream, this.items.length);
    const at = `"output_index":${this.items.length},`;
    const item: MessageItem | ReasoningItem =
      kind === 'message'
        ? { id, type: kind, status: 'in_progress', role: 'assistant', content: [] }
        : { id, type: kind, summary: [], status: 'in_progress' };
    this.#options.send('response.output_item.added', at, { item: snapshotOf(item) });
    this.items.push(item);
    return { item, at, of: `"item_id":"${id}",${at}`, part: '' };
  }

  #addSummary(item: ReasoningItem, open: OpenText, text: string): void {
    const { send } = this.#options;
    if (item.summary.length === 0) {
      item.summary.push({ type: 'summary_text', text: '' });
      open.part = `${open.of}"summary_index":0,`;
      send('response.reasoning_summary_part.added', open.part, { part: { type: 'summary_text', text: '' } });
    }
    const part = item.summary[0] as { text: string };
    part.text += text;
    send('response.reasoning_summary_text.delta', open.part, { delta: text });
  }

  #addOutputText(item: MessageItem, open: OpenText, text: string): void {
    let part = item.content.at(-1);
    if (part?.type !== 'output_text') {
      this.#closeContent(item, open);
      part = { type: 'output_text', annotations: [], logprobs: [], text: '' };
      this.#openContent(item, open, part);
    }
    part.text += text;
    this.#options.send('response.output_text.delta', open.part, { delta: text, logprobs: [] });
  }

  #addRefusal(item: MessageItem, open: OpenText, text: string): void {
    let part = item.content.at(-1);
    if (part?.type !== 'refusal') {
      this.#closeContent(item, open);
      part = { type: 'refusal', refusal: '' };
      this.#openContent(item, open, part);
    }
    part.refusal += text;
    this.#options.send('response.refusal.delta', open.part, { delta: text });
  }

  #openContent(item: MessageItem, open: OpenText, part: OutputText | Refusal): void {
    open.part = `${open.of}"content_index":${item.content.length},`;
    item.content.push(part);
    this.#options.send('response.content_part.added', open.part, { part: { ...part } });
  }

  #closeContent({ content }: MessageItem, { part: place }: OpenText): void {
    const { send } = this.#options;
    const part = content.at(-1);
    if (part === undefined) return;
    if (part.type === 'refusal') send('response.refusal.done', place, { refusal: part.refusal });
    else send('response.output_text.done', place, { text: part.text, logprobs: [] });
    send('response.content_part.done', place, { part });
  }

  #closeText(status: Status): void {
    const open = this.#text;
    this.#text = undefined;
    if (open === undefined) return;
    const { item, at, part: place } = open;
    const { send } = this.#options;
    item.status = status;
    if (item.type === 'message') this.#closeContent(item, open);
    else {
      const [part] = item.summary;
      send('response.reasoning_summary_text.done', place, { text: part?.text });
      send('response.reasoning_summary_part.done', place, { part });
    }
    send('response.output_item.done', at, { item });
  }

  #addToCall(part: ToolPart): void {
    const known = this.#calls.get(part.index);
    // What follows complete arguments means nothing.
    if (known?.item.status === 'completed') return;
    if (known === undefined || known !== this.#call) {
      this.#closeText('completed');
      this.#leaveCall();
    }
    const call = known ?? this.#openCall(part);
    this.#call = call;
    call.item.name ||= part.name ?? '';
    if (part.arguments === '') return;
    call.item.arguments += part.arguments;
    this.#options.send('response.function_call_arguments.delta', call.of, { delta: part.arguments });
  }

  #openCall({ index, id: callId = '', name = '' }: ToolPart): Call {
    const id = outputItemId('function_call', this.#options.stream, this.items.length);
    const at = `"output_index":${this.items.length},`;
    const item: CallItem = { id, type: 'function_call', status: 'in_progress', call_id: callId, name, arguments: '' };
    this.#options.send('response.output_item.added', at, { item: { ...item } });
    this.items.push(item);
    const call = { item, at, of: `"item_id":"${id}",${at}` };
    this.#calls.set(index, call);
    return call;
  }

  /** Closes the call that another item follows, if its arguments are complete. */
  #leaveCall(): void {
    const call = this.#call;
    this.#call = undefined;
    if (call && call.item.arguments !== '' && isWhole(call.item)) this.#closeCall(call);
  }

  #closeCall({ item, at, of }: Call): void {
    if (item.status === 'completed') return;
    const { send } = this.#options;
    item.status = 'completed';
    if (item.arguments === '') {
      item.arguments = '{}';
      send('response.function_call_arguments.delta', of, { delta: '{}' });
    }
    send('response.function_call_arguments.done', of, { name: item.name, arguments: item.arguments });
    send('response.output_item.done', at, { item });
  }

  /** A call that was cut off gets no `done`: clients run a tool at that event. */
  #leaveOpenCalls(): void {
    for (const { item } of this.#calls.values()) if (item.status === 'in_progress') item.status = 'incomplete';
  }

  #addState(state: ProviderState): void {
    const { stream, send } = this.#options;
    const callIds = new Map([...this.#calls].map(([index, { item }]) => [index, item.call_id]));
    const id = outputItemId('reasoning', stream, this.items.length);
    const encrypted_content = encodeState(state, callIds);
    const at = `"output_index":${this.items.length},`;
    const item: ReasoningItem = { id, type: 'reasoning', summary: [], encrypted_content, status: 'completed' };
    send('response.output_item.added', at, {
      item: { id, type: 'reasoning', summary: [], status: 'in_progress' },
    });
    this.items.push(item);
    send('response.output_item.done', at, { item });
  }
}
