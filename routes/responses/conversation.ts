import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { StoredResponse } from '../../plugins/responses/api.ts';
import type { ResponseContext } from './context.ts';
import { type ItemKind, inputItemId, streamOfItem, streamOfResponse } from './ids.ts';
import type { PlacedItem } from './input.ts';
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
  /** Items of the request itself, each with an id. */
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

/** Reads the items of responses, each response once. */
export class Conversations {
  readonly #fastify: FastifyInstance;
  readonly #request: FastifyRequest;
  readonly #maxItems: number;
  readonly #invalid: Invalid;
  readonly #found = new Map<string, Promise<KeptResponse | undefined>>();

  /** @param invalid makes the error of a request that names a response or item that is not there */
  constructor(fastify: FastifyInstance, request: FastifyRequest, invalid: Invalid) {
    this.#fastify = fastify;
    this.#request = request;
    this.#maxItems = fastify.config.limits.messages;
    this.#invalid = invalid;
  }

  /**
   * Returns the conversation of a request: the previous responses, and its own items with references replaced.
   * @throws the error that `invalid` returns, for a response or item that is unknown, has expired or still runs; 404 for
   *   an unknown item
   */
  async itemsOf({ previous_response_id: previous }: ResponseBody, own: readonly InputItem[]): Promise<PlacedItem[]> {
    const before = previous ? await this.#before(previous) : [];
    const items = await Promise.all(
      own.map(async (item, i): Promise<PlacedItem> => {
        const at = `input[${i}]`;
        return item.type === 'item_reference' ? { item: await this.#referred(item, at), at } : { item, at };
      }),
    );
    const all = [...before.map((item): PlacedItem => ({ item, at: undefined })), ...items];
    if (all.length <= this.#maxItems) return all;
    throw this.#invalid(`The conversation has too many items; at most ${this.#maxItems} are allowed.`, 'input');
  }

  /** Returns the items that a response was made of: those of the previous responses, then its own. */
  async inputOf(response: KeptResponse): Promise<InputItem[]> {
    const chain = await this.#chain(response.previous);
    return [...chain.flatMap((one) => [...one.items, ...outputOf(one)]), ...response.items];
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
    return [...(await this.inputOf(last)), ...outputOf(last)];
  }

  /** Returns a response and those before it, the first one first. */
  async #chain(stream: string | undefined): Promise<KeptResponse[]> {
    const chain: KeptResponse[] = [];
    for (let next = stream; next !== undefined; next = chain[0]?.previous) {
      const response = await this.#find(next);
      if (response === undefined) {
        const message = 'A response of the conversation does not exist or has expired.';
        throw this.#invalid(message, 'previous_response_id', 'previous_response_not_found');
      }
      chain.unshift(response);
      if (chain.length > this.#maxItems) throw this.#invalid('The conversation is too long.', 'previous_response_id');
    }
    return chain;
  }

  async #referred({ id }: InputItem, at: string): Promise<InputItem> {
    const stream = streamOfItem(id ?? '');
    const response = stream === undefined ? undefined : await this.#find(stream);
    const all = response ? [...response.items, ...outputOf(response)] : [];
    const found = all.find((item) => item.id === id);
    if (found) return found;
    const message = `${at}.id is that of an item that does not exist or has expired; send the item itself.`;
    throw this.#fastify.apiError({ status: 404, code: 'not_found', message, param: `${at}.id` });
  }

  #find(stream: string): Promise<KeptResponse | undefined> {
    const found = this.#found.get(stream) ?? findResponse(this.#fastify, stream, this.#request);
    this.#found.set(stream, found);
    return found;
  }
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
