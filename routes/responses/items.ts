/** The output items of a response, as OpenAI has them. */

export interface OutputText {
  readonly type: 'output_text';
  readonly annotations: readonly [];
  readonly logprobs: readonly [];
  text: string;
}

export interface Refusal {
  readonly type: 'refusal';
  refusal: string;
}

export type Status = 'in_progress' | 'completed' | 'incomplete';

export interface MessageItem {
  readonly id: string;
  readonly type: 'message';
  status: Status;
  readonly role: 'assistant';
  readonly content: (OutputText | Refusal)[];
}

export interface ReasoningItem {
  readonly id: string;
  readonly type: 'reasoning';
  readonly summary: { readonly type: 'summary_text'; text: string }[];
  /** The state that the provider wants back: see `reasoning-state.ts`. */
  readonly encrypted_content?: string;
  status: Status;
}

export interface CallItem {
  readonly id: string;
  readonly type: 'function_call';
  status: Status;
  readonly call_id: string;
  name: string;
  arguments: string;
}

export type OutputItem = MessageItem | ReasoningItem | CallItem;

/**
 * Receives the events of an answer, in order.
 * @param place members of the event that say where it belongs, as JSON with a comma behind each
 * @param fields other members
 */
export type EventSink = (type: string, place: string, fields: object) => void;

/** Returns a copy of a new item, because the item itself changes before the event is written. */
export function snapshotOf(item: MessageItem | ReasoningItem): object {
  return item.type === 'message' ? { ...item, content: [] } : { ...item, summary: [] };
}

/** Returns true if the arguments of a call are a whole JSON object. */
export function isWhole({ arguments: args }: CallItem): boolean {
  if (!args.trimEnd().endsWith('}')) return false;
  try {
    JSON.parse(args);
    return true;
  } catch {
    return false;
  }
}

/** Returns the texts of an item, or the arguments of a call. */
export function textsOf(item: OutputItem): string[] {
  if (item.type === 'function_call') return [item.arguments];
  if (item.type === 'reasoning') return item.summary.map(({ text }) => text);
  return item.content.map((part) => (part.type === 'refusal' ? part.refusal : part.text));
}
