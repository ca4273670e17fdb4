import { ProviderError } from '../errors.ts';
import type { Usage } from '../types.ts';
import { createAnswerEnd } from './answer-end.ts';
import { finishWord } from './finish-reason.ts';
import { inBandError } from './in-band-error.ts';
import { parseEvent } from './json.ts';
import { answerState } from './openai-state.ts';
import { responsesUsage } from './openai-usage.ts';
import type { PartBuffer } from './parts.ts';
import type { AnswerDecoder } from './read-answer.ts';
import { createItems, type Item, type ItemReference, type OutputItem } from './responses-items.ts';
import { createSseDecoder, type WireEvent } from './sse.ts';
import { hasError, upstreamDetail } from './status-error.ts';
import { createToolCalls } from './tool-calls.ts';

interface Event extends Response {
  type?: string;
  response?: Response | null;
  item?: OutputItem | null;
  item_id?: unknown;
  output_index?: unknown;
  content_index?: unknown;
  summary_index?: unknown;
  delta?: unknown;
  text?: unknown;
  refusal?: unknown;
  name?: unknown;
  arguments?: unknown;
}

/** The response of the first and last events, or a whole answer. */
interface Response {
  object?: unknown;
  status?: unknown;
  error?: unknown;
  incomplete_details?: { reason?: unknown } | null;
  output?: unknown;
  usage?: unknown;
}

interface ContentBlock {
  type?: unknown;
  text?: unknown;
  refusal?: unknown;
}

type Kind = 'text' | 'refusal' | 'summary' | 'thought';

const TEXT_EVENTS: readonly (readonly [string, Kind])[] = [
  ['response.output_text', 'text'],
  ['response.refusal', 'refusal'],
  ['response.reasoning_summary_text', 'summary'],
  ['response.reasoning_text', 'thought'],
  ['response.reasoning', 'thought'], // Older vLLM and OpenRouter
];
const DELTAS: ReadonlyMap<string, Kind> = new Map(TEXT_EVENTS.map(([name, kind]) => [`${name}.delta`, kind]));
const WHOLE_TEXTS: ReadonlyMap<string, Kind> = new Map(TEXT_EVENTS.map(([name, kind]) => [`${name}.done`, kind]));
const END_EVENTS: ReadonlySet<string> = new Set(
  ['completed', 'incomplete', 'failed', 'cancelled', 'done'].map((status) => `response.${status}`),
);

/**
 * Creates a decoder for a Responses stream. Ignores unknown events and items, such as calls of built-in tools.
 *
 * Every text and all arguments come several times: in deltas, in a `done` event, in the item, and in the response at
 * the end. The first form that comes is delivered, because some servers leave out the others.
 */
export function createResponsesDecoder(parts: PartBuffer): AnswerDecoder {
  const toolCalls = createToolCalls(parts);
  const answerEnd = createAnswerEnd(parts);
  const sse = createSseDecoder(onEvent);
  const items = createItems();
  let usage: Usage | undefined;
  let hasStarted = false;
  /** Place of the last reasoning text. A blank line separates it from the next place. */
  let lastThought: string | undefined;

  function onEvent(event: WireEvent): void {
    const text = event.data.trim();
    if (answerEnd.done || text === '' || text === '[DONE]') return;
    const data = parseEvent<Event>(event, text);
    const isWhole = data.object === 'response';
    const type = isWhole ? 'response' : (data.type ?? event.event);
    if (type === 'error' || hasError(data, type?.startsWith('response') ?? false, event.isDocument && !isWhole)) {
      const { type: _, ...detail } = data;
      throw inBandError(upstreamDetail(type === 'error' ? detail : data));
    }
    if (type !== undefined) onTyped(type, data);
  }

  function onTyped(type: string, data: Event): void {
    const reference = { id: data.item_id, index: data.output_index };
    const textIndex = Number(data.content_index ?? data.summary_index ?? 0);
    const deltaKind = DELTAS.get(type);
    const wholeKind = WHOLE_TEXTS.get(type);
    if (deltaKind !== undefined) {
      const { delta } = data;
      if (typeof delta === 'string' && delta !== '') addText(deltaKind, itemOf(deltaKind, reference), textIndex, delta);
    } else if (wholeKind !== undefined) {
      addWhole(wholeKind, itemOf(wholeKind, reference), textIndex, data.text ?? data.refusal);
    } else if (type === 'response.function_call_arguments.delta') {
      addArguments(items.find('function_call', reference), data.delta);
    } else if (type === 'response.function_call_arguments.done') {
      addWholeCall(items.find('function_call', reference), data);
    } else if (type === 'response.created') onStart();
    else if (type === 'response.output_item.added') onItemAdded(data.item ?? {}, data.output_index);
    else if (type === 'response.output_item.done') onItemDone(data.item ?? {}, data.output_index);
    else if (END_EVENTS.has(type)) onEndOf(data.response ?? {}, type.slice('response.'.length));
    else if (type === 'response') onEndOf(data, 'completed');
  }

  function itemOf(kind: Kind, reference: ItemReference): Item {
    return items.find(kind === 'text' || kind === 'refusal' ? 'message' : 'reasoning', reference);
  }

  function onStart(): void {
    // A proxy has asked again in the middle: both answers would be read as one.
    if (hasStarted) throw new ProviderError('upstream_protocol', { reason: 'second_message', retryable: true });
    hasStarted = true;
  }

  function onItemAdded(added: OutputItem, index: unknown): void {
    const { type, id, call_id: callId } = added;
    if (type !== 'message' && type !== 'reasoning' && type !== 'function_call') return;
    const item = items.begin(type, { id, index, callId });
    if (type === 'reasoning') parts.thinking();
    if (type !== 'function_call') return;
    addHead(item, added);
    if (typeof added.arguments === 'string') item.heldArguments = added.arguments;
  }

  /** Reads an item that is complete. `number` is given in a whole response: the item is the n-th of its type. */
  function onItemDone(done: OutputItem, index: unknown, number?: number): void {
    const { type, id, call_id: callId } = done;
    if (type !== 'message' && type !== 'reasoning' && type !== 'function_call') return;
    const reference = { id, index, callId };
    const item = number === undefined ? items.find(type, reference) : items.findInOutput(type, reference, number);
    if (type === 'function_call') {
      addWholeCall(item, done);
      return;
    }
    if (type === 'reasoning' && typeof done.encrypted_content === 'string' && done.encrypted_content !== '') {
      item.encrypted = done;
    }
    for (const [i, { text }] of objectsIn<ContentBlock>(done.summary).entries()) addWhole('summary', item, i, text);
    for (const [i, { type: kind, text, refusal }] of objectsIn<ContentBlock>(done.content).entries()) {
      if (type === 'reasoning') addWhole('thought', item, i, text);
      else addWhole(kind === 'refusal' ? 'refusal' : 'text', item, i, kind === 'refusal' ? refusal : text);
    }
  }

  /** Delivers a whole text, unless it has been delivered. */
  function addWhole(kind: Kind, item: Item, index: number, text: unknown): void {
    if (typeof text !== 'string' || text === '' || item.delivered.has(`${kind}:${index}`)) return;
    addText(kind, item, index, text);
  }

  function addText(kind: Kind, item: Item, index: number, text: string): void {
    if (kind === 'text' || kind === 'refusal') {
      item.delivered.add(`${kind}:${index}`);
      parts.text(kind, text);
      return;
    }
    // The summary repeats the reasoning: only the form that comes first is delivered.
    if (item.delivered.has(kind === 'summary' ? 'thought' : 'summary')) return;
    item.delivered.add(kind).add(`${kind}:${index}`);
    const place = `${item.number}:${index}`;
    parts.text('reasoning', lastThought === undefined || lastThought === place ? text : `\n\n${text}`);
    lastThought = place;
    parts.thinking();
  }

  function addHead(item: Item, { id, call_id: callId, name }: OutputItem): void {
    if (item.callId === '' && typeof callId === 'string') item.callId = callId;
    const isNewName = item.name === '' && typeof name === 'string';
    if (isNewName) item.name = name;
    toolCalls.add([{ index: item.number, id: item.callId || id, function: isNewName ? { name } : null }]);
  }

  function addArguments(item: Item, args: unknown): void {
    if (args === undefined || args === null || args === '') return;
    item.hasArguments = true;
    toolCalls.add([{ index: item.number, function: { arguments: args } }]);
  }

  /** Adds what is missing of a call whose arguments are complete. */
  function addWholeCall(item: Item, done: OutputItem): void {
    if (item.name === '' || item.callId === '') addHead(item, done);
    if (!item.hasArguments) addArguments(item, done.arguments);
    if (item.hasArguments) toolCalls.complete(item.number);
  }

  function onEndOf(response: Response, type: string): void {
    const status = finishWord(response.status) ?? type;
    if (['failed', 'cancelled'].includes(status) || ['failed', 'cancelled'].includes(type)) {
      throw inBandError(upstreamDetail(response.error ?? { code: status }));
    }
    const counts: Record<string, number> = {};
    for (const [index, item] of objectsIn<OutputItem>(response.output).entries()) {
      const number = counts[String(item.type)] ?? 0;
      counts[String(item.type)] = number + 1;
      onItemDone(item, index, number);
    }
    usage = responsesUsage(response.usage);
    // vLLM sends `completed` with the status `incomplete`.
    const isIncomplete = type === 'incomplete' || status === 'incomplete';
    answerEnd.reason(isIncomplete ? (finishWord(response.incomplete_details?.reason) ?? 'incomplete') : 'completed');
    answerEnd.marker();
  }

  return {
    push: sse.push,
    end: sse.end,
    get done() {
      return answerEnd.done;
    },
    get isFinished() {
      return answerEnd.isFinished;
    },
    finish() {
      for (const item of items.all) if (!item.hasArguments) addArguments(item, item.heldArguments);
      toolCalls.flush();
      const part = answerEnd.finish(usage, toolCalls.count > 0);
      const state = answerState(items.details(), toolCalls);
      return { ...part, ...(state && { state }) };
    },
  };
}

/** Returns the objects of a list; an empty list for anything else. */
function objectsIn<T extends object>(value: unknown): T[] {
  return Array.isArray(value) ? value.filter((element) => typeof element === 'object' && element !== null) : [];
}
