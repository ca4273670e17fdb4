import type { ReasoningDetail } from '../types.ts';
import { RESPONSES_STATE_FORMAT } from './responses-body.ts';

/** Keeps the output items of a Responses answer apart. */

/** An output item as sent by the provider. Every field may be missing. */
export interface OutputItem {
  readonly type?: unknown;
  readonly id?: unknown;
  readonly call_id?: unknown;
  readonly name?: unknown;
  readonly arguments?: unknown;
  readonly encrypted_content?: unknown;
  readonly content?: unknown;
  readonly summary?: unknown;
}

export interface Item {
  readonly type: ItemType;
  /** Number among the items of its type. */
  readonly number: number;
  /** Number of function calls before it. */
  readonly callsBefore: number;
  /** Texts of the item that were delivered, by kind and index. */
  readonly delivered: Set<string>;
  callId: string;
  name: string;
  /** Arguments that may be complete, until it is known that no deltas follow. */
  heldArguments: string;
  hasArguments: boolean;
  /** The newest form with encrypted reasoning. */
  encrypted: OutputItem | undefined;
}

export type ItemType = 'message' | 'reasoning' | 'function_call';

/** Fields of an event that identify its item. */
export interface ItemReference {
  readonly id?: unknown;
  readonly index?: unknown;
  readonly callId?: unknown;
}

export interface Items {
  readonly all: readonly Item[];
  /** Returns the item that begins with `output_item.added`. */
  begin(type: ItemType, reference: ItemReference): Item;
  /** Returns the item of an event, or a new one. */
  find(type: ItemType, reference: ItemReference): Item;
  /** Returns the item that is the n-th of its type in a whole response, or a new one. */
  findInOutput(type: ItemType, reference: ItemReference, number: number): Item;
  /** Returns the encrypted reasoning before each function call. */
  details(): ReasoningDetail[];
}

/**
 * Creates the list of items. An event belongs to the item with its id; else to the one with its call id; else to the
 * one of the same type at its output index; else to the newest of its type. Some gateways change the ids from event
 * to event (Copilot), and some servers repeat the index 0.
 */
export function createItems(): Items {
  const all: Item[] = [];
  const byId = new Map<string, Item>();
  const byCallId = new Map<string, Item>();
  const byIndex = new Map<string, Item>();
  const countOf = (type: ItemType) => all.filter((item) => item.type === type).length;

  const remember = (item: Item, { id, index, callId }: ItemReference): Item => {
    if (typeof id === 'string' && id !== '') byId.set(id, item);
    if (typeof callId === 'string' && callId !== '') byCallId.set(callId, item);
    if (typeof index === 'number') byIndex.set(`${item.type}:${index}`, item);
    return item;
  };

  const create = (type: ItemType): Item => {
    const item: Item = {
      type,
      number: countOf(type),
      callsBefore: countOf('function_call'),
      delivered: new Set(),
      callId: '',
      name: '',
      heldArguments: '',
      hasArguments: false,
      encrypted: undefined,
    };
    all.push(item);
    return item;
  };

  const known = (type: ItemType, { id, callId }: ItemReference): Item | undefined => {
    const item = byId.get(String(id)) ?? byCallId.get(String(callId));
    return item?.type === type ? item : undefined;
  };

  /** Returns the item unless the reference has another call id. */
  const unlessOtherCall = (item: Item | undefined, { callId }: ItemReference): Item | undefined => {
    const isOther = typeof callId === 'string' && item !== undefined && item.callId !== '' && item.callId !== callId;
    return isOther ? undefined : item;
  };

  return {
    all,
    begin: (type, reference) => remember(known(type, reference) ?? create(type), reference),
    find(type, reference) {
      const { id, index } = reference;
      const sameId = typeof id === 'string' ? byId.get(id) : undefined;
      if (sameId?.type === type) return sameId; // The common case
      const atIndex = byIndex.get(`${type}:${index}`);
      const newest = index === undefined ? all.findLast((item) => item.type === type) : undefined;
      const found = known(type, reference) ?? unlessOtherCall(atIndex ?? newest, reference);
      return remember(found ?? create(type), reference);
    },
    findInOutput(type, reference, number) {
      const sameNumber = all.find((item) => item.type === type && item.number === number);
      return remember(known(type, reference) ?? unlessOtherCall(sameNumber, reference) ?? create(type), reference);
    },
    details() {
      const callCount = countOf('function_call');
      return all.flatMap(({ encrypted, callsBefore }) => {
        if (encrypted === undefined || callsBefore >= callCount) return [];
        const { id, encrypted_content: data } = encrypted;
        const detail = { type: 'reasoning.encrypted', format: RESPONSES_STATE_FORMAT, id, data };
        return [{ ...detail, before: callsBefore }];
      });
    },
  };
}
