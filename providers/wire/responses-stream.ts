import { ProviderError } from '../errors.ts';
import type { Usage } from '../types.ts';
import { createAnswerEnd } from './answer-end.ts';
import { mergeUsage, usageFrom } from './counts.ts';
import { inBandError } from './in-band-error.ts';
import { parseEvent } from './json.ts';
import type { PartBuffer } from './parts.ts';
import type { AnswerDecoder } from './read-answer.ts';
import { createStateCollector, isRecord } from './reasoning-details.ts';
import { RESPONSES_FORMAT } from './responses-body.ts';
import { createSseDecoder, type WireEvent } from './sse.ts';
import { hasError, upstreamDetail } from './status-error.ts';
import { createToolCalls } from './tool-calls.ts';

type Fields = Record<string, unknown>;

/** Names of the events that carry a fragment of text, and the kind of text. */
const DELTAS: Readonly<Record<string, 'text' | 'reasoning'>> = {
  'response.output_text.delta': 'text',
  'response.refusal.delta': 'text',
  'response.reasoning_summary_text.delta': 'reasoning',
  'response.reasoning_text.delta': 'reasoning',
};

/**
 * Creates a decoder for a stream of OpenAI's Responses API: items with deltas, and a last event with the whole
 * response. Some servers send no deltas, but whole items, or only the last event: text and calls that no delta has
 * brought are taken from there. Ignores unknown events, such as those of built-in tools.
 */
export function createResponsesDecoder(parts: PartBuffer): AnswerDecoder {
  const toolCalls = createToolCalls(parts);
  const answerEnd = createAnswerEnd(parts);
  const collector = createStateCollector();
  const sse = createSseDecoder(onEvent);
  /** Items of which something was delivered. */
  const delivered = new Set<string>();
  /** Ids of reasoning items in the state. */
  const kept = new Set<string>();
  let usage: Usage | undefined;
  let hasStarted = false;
  let isRefused = false;
  /** Item and part of the last summary: a new part begins with a blank line. */
  let summaryPart = '';

  function onEvent(event: WireEvent): void {
    const text = event.data.trim();
    if (answerEnd.done || text === '' || text === '[DONE]') return;
    const data = parseEvent<Fields>(event, text);
    const type = String(data.type ?? event.event ?? '');
    const isWhole = data.object === 'response' && data.type === undefined;
    if (type === 'error' || hasError(data, isWhole || type.startsWith('response.'), event.isDocument)) {
      throw inBandError(upstreamDetail(data));
    }
    const kind = DELTAS[type];
    if (isWhole) onResponse(data, `response.${String(data.status)}`);
    else if (kind !== undefined) onDelta(kind, type, data);
    else if (type === 'response.created') onCreated();
    else if (type === 'response.output_item.added') onItem(data, false);
    else if (type === 'response.output_item.done') onItem(data, true);
    else if (type === 'response.function_call_arguments.delta') addArguments(data, data.delta);
    else if (type === 'response.function_call_arguments.done') addWholeArguments(data, data.arguments);
    else if (type === 'response.output_text.done' || type === 'response.refusal.done') onTextDone(data);
    else if (isRecord(data.response)) onResponse(data.response, type);
  }

  function onCreated(): void {
    // A proxy has asked again in the middle: both answers would be read as one.
    if (hasStarted && parts.hasContent) {
      throw new ProviderError('upstream_protocol', { reason: 'second_message', retryable: true });
    }
    hasStarted = true;
  }

  function onDelta(kind: 'text' | 'reasoning', type: string, data: Fields): void {
    if (typeof data.delta !== 'string' || data.delta === '') return;
    delivered.add(itemKey(data));
    if (type === 'response.refusal.delta') isRefused = true;
    if (kind === 'text') {
      parts.text('text', data.delta);
      return;
    }
    const part = `${itemKey(data)} ${String(data.summary_index ?? 0)}`;
    if (summaryPart !== '' && summaryPart !== part) parts.text('reasoning', '\n\n');
    summaryPart = part;
    parts.text('reasoning', data.delta);
    parts.thinking();
  }

  function onTextDone(data: Fields): void {
    const text = data.text ?? data.refusal;
    if (delivered.has(itemKey(data)) || typeof text !== 'string' || text === '') return;
    delivered.add(itemKey(data));
    if (data.refusal !== undefined) isRefused = true;
    parts.text('text', text);
  }

  function onItem(data: Fields, isDone: boolean): void {
    if (!isRecord(data.item)) return;
    const item: Fields = { item_id: data.item.id, output_index: data.output_index, ...data.item };
    if (item.type === 'reasoning') onReasoning(item, isDone);
    else if (item.type === 'function_call') onCall(item, isDone);
    else if (item.type === 'message' && isDone) onMessage(item);
  }

  function onReasoning(item: Fields, isDone: boolean): void {
    if (!isDone) {
      parts.thinking();
      return;
    }
    const { id, encrypted_content: data, summary } = item;
    if (!delivered.has(itemKey(item))) for (const text of textsOf(summary)) parts.text('reasoning', text);
    delivered.add(itemKey(item));
    if (typeof data !== 'string' || data === '' || kept.has(itemKey(item))) return;
    kept.add(itemKey(item));
    const before = toolCalls.count;
    collector.addDetail({ type: 'reasoning.encrypted', id, data, format: RESPONSES_FORMAT, before });
  }

  function onCall(item: Fields, isDone: boolean): void {
    const { call_id: id, name } = item;
    if (!delivered.has(itemKey(item))) {
      toolCalls.add([{ index: indexOf(item), id, function: { name, arguments: '' } }]);
    }
    if (!isDone) return;
    addWholeArguments(item, item.arguments);
    const index = indexOf(item);
    if (index !== undefined) toolCalls.complete(index);
  }

  function addArguments(data: Fields, text: unknown): void {
    if (typeof text !== 'string' || text === '') return;
    delivered.add(itemKey(data));
    toolCalls.add([{ index: indexOf(data), function: { arguments: text } }]);
  }

  /** Adds arguments that no delta has brought. */
  function addWholeArguments(data: Fields, text: unknown): void {
    if (!delivered.has(itemKey(data))) addArguments(data, text);
    delivered.add(itemKey(data));
  }

  function onMessage(item: Fields): void {
    if (delivered.has(itemKey(item))) return;
    for (const part of Array.isArray(item.content) ? item.content : []) {
      if (!isRecord(part)) continue;
      if (typeof part.refusal === 'string') isRefused = true;
      const text = part.text ?? part.refusal;
      if (typeof text === 'string' && text !== '') parts.text('text', text);
    }
    delivered.add(itemKey(item));
  }

  /** Reads a response: the last event has the whole one. */
  function onResponse(response: Fields, type: string): void {
    if (type === 'response.failed' || type === 'response.cancelled') {
      throw inBandError(
        upstreamDetail(isRecord(response.error) ? { error: response.error } : { code: 'server_error' }),
      );
    }
    usage = mergeUsage(usage, usageOf(response.usage));
    if (type !== 'response.completed' && type !== 'response.incomplete') return;
    const output: unknown[] = Array.isArray(response.output) ? response.output : [];
    for (const [output_index, item] of output.entries()) onItem({ output_index, item }, true);
    const { reason } = isRecord(response.incomplete_details) ? response.incomplete_details : {};
    answerEnd.reason(type === 'response.completed' ? 'completed' : typeof reason === 'string' ? reason : 'incomplete');
    answerEnd.marker();
  }

  /** Items are told apart by their place, which all events have; some servers change ids between events. */
  function itemKey({ output_index: index, item_id: id, id: ownId }: Fields): string {
    return typeof index === 'number' ? `#${index}` : String(id ?? ownId ?? '');
  }

  function indexOf(data: Fields): number | undefined {
    return typeof data.output_index === 'number' ? data.output_index : undefined;
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
      toolCalls.flush();
      const part = answerEnd.finish(usage, toolCalls.count > 0);
      const state = toolCalls.count > 0 ? collector.state() : undefined;
      return { ...part, ...(isRefused && { reason: 'content_filter' as const }), ...(state && { state }) };
    },
  };
}

/** Returns the texts of a summary. */
function textsOf(summary: unknown): string[] {
  const texts = (Array.isArray(summary) ? summary : []).map((part) => (isRecord(part) ? part.text : undefined));
  return texts.filter((text) => typeof text === 'string' && text !== '') as string[];
}

function usageOf(raw: unknown): Usage | undefined {
  if (!isRecord(raw)) return undefined;
  const { input_tokens_details: input, output_tokens_details: output } = raw;
  return usageFrom({
    inputTokens: raw.input_tokens,
    outputTokens: raw.output_tokens,
    totalTokens: raw.total_tokens,
    cachedTokens: isRecord(input) ? input.cached_tokens : undefined,
    reasoningTokens: isRecord(output) ? output.reasoning_tokens : undefined,
  });
}
