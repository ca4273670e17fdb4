/**
 * Ids of responses and of their items. They contain the id of the stream, so every replica makes the same ones, and an
 * item can be found by its id.
 */

const RESPONSE_ID = /^resp_([A-Za-z0-9_-]{16,64})$/;
const ITEM_ID = /^(?:msg|rs|fc|fco)_([A-Za-z0-9_-]{16,64})_i?\d{1,6}$/;

export type ItemKind = 'message' | 'reasoning' | 'function_call' | 'function_call_output';

const PREFIXES: Readonly<Record<ItemKind, string>> = {
  message: 'msg',
  reasoning: 'rs',
  function_call: 'fc',
  function_call_output: 'fco',
};

/** Returns the id of the response that a stream holds. */
export function responseIdOf(stream: string): string {
  return `resp_${stream}`;
}

/** Returns the id of the stream of a response; undefined for text that is not the id of a response. */
export function streamOfResponse(id: string): string | undefined {
  return RESPONSE_ID.exec(id)?.[1];
}

/** Returns the id of the output item with an index. */
export function outputItemId(kind: ItemKind, stream: string, index: number): string {
  return `${PREFIXES[kind]}_${stream}_${index}`;
}

/** Returns the id of an input item that has come without one. */
export function inputItemId(kind: ItemKind, stream: string, index: number): string {
  return `${PREFIXES[kind]}_${stream}_i${index}`;
}

/** Returns the id of the stream whose response has an item; undefined for an item of another service. */
export function streamOfItem(id: string): string | undefined {
  return ITEM_ID.exec(id)?.[1];
}
