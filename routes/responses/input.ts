import type { Question } from '../../plugins/streams/api.ts';
import { textOf, userContent } from './content.ts';
import { decodeStates } from './reasoning-state.ts';
import type { InputItem } from './schema.ts';

/** Converts the items of a conversation to messages. */

type Message = Question['messages'][number];
type Invalid = (message: string, param?: string) => Error;

/** An item and its place in the request; undefined for an item that Sluice has kept. */
export interface PlacedItem {
  readonly item: InputItem;
  readonly at: string | undefined;
}

/** One step of the model: its messages, reasoning and calls. */
class Turn {
  readonly texts: string[] = [];
  readonly reasoning: string[] = [];
  readonly states: string[] = [];
  readonly calls: { id: string; name: string; arguments: string; output: string }[] = [];
  hasOutput = false;

  /** Returns the message of the step and the outputs of its calls. Reasoning alone is not a message. */
  messages(): Message[] {
    const content = this.texts.join('\n');
    if (this.calls.length === 0) return content === '' ? [] : [{ role: 'assistant', content }];
    const reasoning = this.reasoning.join('\n');
    const state = decodeStates(
      this.states,
      this.calls.map(({ id }) => id),
    );
    const toolCalls = this.calls.map(({ output: _, ...call }) => call);
    return [
      { role: 'assistant', content, toolCalls, ...(reasoning && { reasoning }), ...(state && { state }) },
      ...this.calls.map(({ id, name, output }): Message => ({ role: 'tool', toolCallId: id, name, content: output })),
    ];
  }
}

/** @throws the error that `invalid` returns, for an item that no prompt can hold, and for a call without its output */
export function toMessages(items: readonly PlacedItem[], invalid: Invalid): Message[] {
  const outputs = outputsOf(items, invalid);
  const messages: Message[] = [];
  let turn = new Turn();
  const endTurn = () => {
    messages.push(...turn.messages());
    turn = new Turn();
  };
  for (const placed of items) {
    const { item, at = 'input' } = placed;
    const type = item.type ?? 'message';
    if (type === 'function_call_output') {
      turn.hasOutput = true;
      continue;
    }
    if (turn.hasOutput) endTurn();
    if (type === 'function_call') {
      const { call_id: id, name, arguments: args = '', status } = item;
      if (id === undefined || !name) throw invalid(`${at} must have call_id, name and arguments.`, at);
      const output = outputs.get(placed);
      // A call that was cut off has never run.
      if (output === undefined && status === 'incomplete') continue;
      if (output === undefined) throw invalid('A function call has no output; add its function_call_output.', 'input');
      turn.calls.push({ id, name, arguments: args, output });
    } else if (type === 'reasoning') {
      turn.reasoning.push(...(item.summary ?? []).map(({ text }) => text), ...reasoningTexts(item, at, invalid));
      if (item.encrypted_content) turn.states.push(item.encrypted_content);
    } else if (type !== 'message') throw unsupportedItem(at, invalid);
    else if (item.role === 'assistant') turn.texts.push(textOf(item.content, at, '', invalid));
    else {
      endTurn();
      messages.push(clientMessage(item, at, invalid));
    }
  }
  endTurn();
  return messages;
}

/** Returns the texts of the content of a reasoning item: open models send their reasoning so, besides a summary. */
function reasoningTexts({ content }: InputItem, at: string, invalid: Invalid): string[] {
  if (content == null || typeof content === 'string') return content ? [content] : [];
  return content.map(({ type, text }, i) => {
    if (type === 'reasoning_text' && text !== undefined) return text;
    throw invalid(`${at}.content[${i}] must be reasoning_text.`, `${at}.content[${i}]`);
  });
}

function clientMessage({ role, content }: InputItem, at: string, invalid: Invalid): Message {
  if (role === undefined) throw invalid(`${at}.role must be system, developer, user or assistant.`, `${at}.role`);
  if (role === 'user') return { role, content: userContent(content, at, invalid) };
  return { role: 'system', content: textOf(content, at, '\n', invalid) };
}

/**
 * Returns the outputs by their call: the newest call before them with the same id. Some providers use an id again in
 * each step.
 */
function outputsOf(items: readonly PlacedItem[], invalid: Invalid): Map<PlacedItem, string> {
  const outputs = new Map<PlacedItem, string>();
  const calls = new Map<string, PlacedItem>();
  for (const placed of items) {
    const { item, at = 'input' } = placed;
    if (item.type === 'function_call' && item.call_id !== undefined) calls.set(item.call_id, placed);
    if (item.type !== 'function_call_output') continue;
    const call = calls.get(item.call_id ?? '');
    if (call === undefined) {
      throw invalid(`${at}.call_id must be that of an earlier function call without an output.`, `${at}.call_id`);
    }
    calls.delete(item.call_id ?? '');
    outputs.set(call, textOf(item.output, at, '\n', invalid, 'output'));
  }
  return outputs;
}

function unsupportedItem(at: string, invalid: Invalid): Error {
  const types = 'message, function_call, function_call_output, reasoning or item_reference';
  return invalid(`${at}.type must be ${types}; items of built-in tools are not supported.`, `${at}.type`);
}
