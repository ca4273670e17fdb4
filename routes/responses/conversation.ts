import { setImmediate as nextTurn } from 'node:timers/promises';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { StoredResponse } from '../../plugins/responses/api.ts';
import type { ResponseContext } from './context.ts';
import { type ItemKind, inputItemId, streamOfItem, streamOfResponse } from './ids.ts';
import type { PlacedItem } from './input.ts';
import { isReference } from './item-fields.ts';
import type { OutputItem } from './items.ts';
import { Output } from './output.ts';
import type { Echo, ResponseHead } from './response-object.ts';
import type { InputItem, ResponseBody } from './schema.ts';

/** Finds the items of earlier responses: those of the conversation, and those that a request refers to. */

type Invalid = (message: string, param?: string, code?: string) => Error;

/** The record of a question, next to its answer. */
export interface KeptQuestion {
  readonly model: string;
  readonly context: ResponseContext;
  readonly echo: Echo;
  /** Items of the request itself, each with an id; items instead of references to them. */
  readonly items: readonly InputItem[];
  /** Id of the stream of the previous response. */
  readonly previous?: string | undefined;
}

export interface KeptResponse extends KeptQuestion {
  readonly head: ResponseHead;
  readonly answer: StoredResponse['answer'];
}

/** Returns the caller's response with the id of its stream; undefined if there is none. @throws 503 without a store */
export async function findResponse(
  { storedResponses }: FastifyInstance,
  stream: string,
  { identity }: FastifyRequest,
): Promise<KeptResponse | undefined> {
  const stored = await storedResponses.find(stream, identity);
  if (stored === undefined) return undefined;
  const kept = JSON.parse(stored.request) as KeptQuestion;
  const { model, context, echo } = kept;
  return { ...kept, head: { stream, model, createdAt: context.createdAt, echo }, answer: stored.answer };
}

/** Gives each item an id, as the list of input items has them. */
export function withItemIds(stream: string, items: readonly InputItem[]): InputItem[] {
  return items.map((item, i) => {
    const type = item.type ?? 'message';
    return { ...item, type, id: item.id || inputItemId(type as ItemKind, stream, i) };
  });
}

/** Items of a request: the whole conversation for the prompt, and its own ones for the record. References are replaced. */
export interface ResolvedItems {
  readonly conversation: PlacedItem[];
  readonly own: InputItem[];
}

/** Most bytes of one UTF-16 unit of a text. */
const UNIT_BYTES = 2;

/**
 * Finds the items of one request, one response at a time. Their length is bounded by `limits.chatBodyBytes`, as that of a body
 * with the same items, and their memory is claimed before the next response is read.
 */
export class Conversations {
  readonly #fastify: FastifyInstance;
  readonly #request: FastifyRequest;
  readonly #maxItems: number;
  readonly #maxUnits: number;
  readonly #claim: NonNullable<FastifyRequest['bodyClaim']>;
  readonly #invalid: Invalid;
  #units = 0;

  /**
   * @param claim on the memory of the items; somebody holds it
   * @param invalid makes the error of a request that names a response or item that is not there
   */
  constructor(
    fastify: FastifyInstance,
    request: FastifyRequest,
    claim: NonNullable<FastifyRequest['bodyClaim']>,
    invalid: Invalid,
  ) {
    const { messages, chatBodyBytes } = fastify.config.limits;
    this.#fastify = fastify;
    this.#request = request;
    this.#maxItems = messages;
    this.#maxUnits = chatBodyBytes;
    this.#claim = claim;
    this.#invalid = invalid;
  }

  /**
   * Returns the conversation of a request: the previous responses, and its own items with references replaced.
   * @throws the error that `invalid` returns, for a response that is unknown, has expired or still runs, for two references
   *   to one item, and with the code `context_length_exceeded` for a conversation that is too long; 404 for an unknown
   *   item; 429 or 503 if there is no memory left
   */
  async itemsOf({ previous_response_id: previous }: ResponseBody, items: readonly InputItem[]): Promise<ResolvedItems> {
    const before = previous ? await this.#before(previous) : [];
    const found = await this.#referred(items, before);
    const own = items.map((item, i) => found.get(i) ?? item);
    const conversation = [
      ...before.map((item): PlacedItem => ({ item, at: undefined })),
      ...own.map((item, i): PlacedItem => ({ item, at: `input[${i}]` })),
    ];
    if (conversation.length <= this.#maxItems) return { conversation, own };
    throw this.#invalid(`The conversation has too many items; at most ${this.#maxItems} are allowed.`, 'input');
  }

  /**
   * Returns the items that a response was made of: those of the previous responses, then its own.
   * @throws as `itemsOf` does
   */
  async inputOf({ previous, items }: KeptResponse): Promise<InputItem[]> {
    return [...(await this.#chain(previous)), ...items];
  }

  async #before(previous: string): Promise<InputItem[]> {
    const stream = streamOfResponse(previous);
    const last = stream === undefined ? undefined : await this.#find(stream);
    const param = 'previous_response_id';
    if (last === undefined) {
      const message = 'The previous response does not exist or has expired.';
      throw this.#invalid(message, param, 'previous_response_not_found');
    }
    if (last.answer === undefined) throw this.#invalid('The previous response has not ended.', param);
    const items = itemsOfResponse(last);
    this.#count(items, param);
    return [...(await this.#chain(last.previous)), ...items];
  }

  /** Returns the items of a response and of those before it, the first ones first. */
  async #chain(stream: string | undefined): Promise<InputItem[]> {
    const param = 'previous_response_id';
    const chain: InputItem[][] = [];
    for (let next = stream; next !== undefined; ) {
      const response = await this.#find(next);
      if (response === undefined) {
        const message = 'A response of the conversation does not exist or has expired.';
        throw this.#invalid(message, param, 'previous_response_not_found');
      }
      const items = itemsOfResponse(response);
      this.#count(items, param);
      chain.push(items);
      if (chain.length > this.#maxItems) throw this.#invalid('The conversation is too long.', param);
      next = response.previous;
    }
    return chain.reverse().flat();
  }

  /** Returns the items that references stand for, by the index of the reference. Reads each response once. */
  async #referred(items: readonly InputItem[], before: readonly InputItem[]): Promise<Map<number, InputItem>> {
    const known = new Set(before.map(({ id }) => id));
    const indexes = new Map<string, number[]>();
    for (const [i, item] of items.entries()) {
      if (!isReference(item)) continue;
      const { id } = item;
      if (known.has(id)) {
        const message = `input[${i}].id is that of an item that the conversation already has.`;
        throw this.#invalid(message, `input[${i}].id`);
      }
      known.add(id);
      const stream = streamOfItem(id ?? '');
      if (stream === undefined) throw this.#unknownItem(i);
      indexes.set(stream, [...(indexes.get(stream) ?? []), i]);
    }
    const found = new Map<number, InputItem>();
    for (const [stream, ofStream] of indexes) {
      const response = await this.#find(stream);
      const byId = new Map((response ? itemsOfResponse(response) : []).map((item) => [item.id, item]));
      for (const i of ofStream) {
        const item = byId.get(items[i]?.id);
        if (item === undefined) throw this.#unknownItem(i);
        this.#count([item], `input[${i}].id`);
        found.set(i, item);
      }
    }
    return found;
  }

  #unknownItem(i: number): Error {
    const param = `input[${i}].id`;
    const message = `${param} is that of an item that does not exist or has expired; send the item itself.`;
    return this.#fastify.apiError({ status: 404, code: 'not_found', message, param });
  }

  /** Claims the memory of items that were found. */
  #count(items: readonly InputItem[], param: string): void {
    const units = unitsOf(items);
    this.#units += units;
    if (this.#units > this.#maxUnits) {
      const message = `The conversation is too long; at most ${this.#maxUnits} characters are allowed.`;
      throw this.#invalid(message, param, 'context_length_exceeded');
    }
    this.#fastify.limits.growClaim(this.#claim, units * UNIT_BYTES);
  }

  /** Finds one response. Others get the event loop between two: without Redis, nothing else waits. */
  async #find(stream: string): Promise<KeptResponse | undefined> {
    await nextTurn();
    return findResponse(this.#fastify, stream, this.#request);
  }
}

/** Length of a name with its punctuation, about. */
const MEMBER_UNITS = 8;

/** Returns the length of all texts of a value, and of what surrounds them. */
function unitsOf(value: unknown): number {
  if (typeof value === 'string') return value.length;
  if (typeof value !== 'object' || value === null) return 0;
  let units = MEMBER_UNITS;
  for (const member of Object.values(value)) units += MEMBER_UNITS + unitsOf(member);
  return units;
}

function itemsOfResponse(response: KeptResponse): InputItem[] {
  return [...response.items, ...outputOf(response)];
}

/** Returns the output of a response as input, with the state of the provider. */
function outputOf({ head, answer }: KeptResponse): InputItem[] {
  if (answer === undefined) return [];
  const output = new Output({ stream: head.stream, hasState: true, send: () => {} });
  for (const part of answer.parts) output.add(part);
  if (answer.terminal.type === 'end') output.end(answer.terminal);
  else output.fail();
  return output.items.map(toInput);
}

function toInput(item: OutputItem): InputItem {
  if (item.type !== 'message') return item;
  return { ...item, content: item.content.map((part) => ({ ...part })) };
}

/** Returns the id of the response that a request continues, for the record of the new one. */
export function previousOf({ previous_response_id: id }: ResponseBody): string | undefined {
  return id ? streamOfResponse(id) : undefined;
}
