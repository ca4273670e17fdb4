import type { Usage } from '../types.ts';
import { usageFrom } from './counts.ts';
import { finishPart } from './finish-reason.ts';
import { inBandError } from './in-band-error.ts';
import { parseEvent } from './json.ts';
import type { PartBuffer } from './parts.ts';
import { type AnswerDecoder, truncatedError } from './read-answer.ts';
import { createSseDecoder, type WireEvent } from './sse.ts';
import { upstreamDetail } from './status-error.ts';

interface Event {
  type?: string;
  index?: number;
  message?: { usage?: Counts | null } | null;
  content_block?: Block | null;
  delta?: Delta | null;
  usage?: Counts | null;
}

interface Block {
  type?: string;
  id?: string | null;
  name?: string | null;
  text?: string | null;
  thinking?: string | null;
  input?: object | null;
}

interface Delta {
  type?: string;
  text?: string | null;
  thinking?: string | null;
  partial_json?: string | null;
  stop_reason?: string | null;
}

type Counts = Record<string, unknown>;

/**
 * Creates a decoder for a Messages stream: blocks with start, delta and stop events, between `message_start`
 * and `message_stop`. The answer is complete with `message_stop`, or with a stop reason and a clean end.
 * Ignores unknown events and blocks, such as calls and results of server-side tools.
 */
export function createAnthropicDecoder(parts: PartBuffer): AnswerDecoder {
  const sse = createSseDecoder(onEvent);
  /** Index of the tool call by index of its block. */
  const toolCallIndexes = new Map<number, number>();
  let counts: Counts = {};
  let rawReason: string | undefined;
  let isDone = false;

  function onEvent(event: WireEvent): void {
    if (isDone || event.data.trim() === '') return;
    const data = parseEvent<Event>(event, event.data);
    if (event.event === 'error' || data.type === 'error') throw inBandError(upstreamDetail(data));
    if (data.type === 'message_start') addCounts(data.message?.usage);
    else if (data.type === 'content_block_start') onBlock(data);
    else if (data.type === 'content_block_delta') onDelta(data);
    else if (data.type === 'message_delta') {
      addCounts(data.usage); // cumulative
      rawReason = data.delta?.stop_reason ?? rawReason;
    } else if (data.type === 'message_stop') isDone = true;
  }

  function addCounts(usage: Counts | null | undefined): void {
    for (const [name, value] of Object.entries(usage ?? {})) if (value !== null) counts = { ...counts, [name]: value };
  }

  function onBlock({ index = 0, content_block: block }: Event): void {
    if (block?.type === 'text' && block.text) parts.text('text', block.text);
    else if (block?.type === 'thinking' && block.thinking) parts.text('reasoning', block.thinking);
    else if (block?.type === 'tool_use') {
      const toolCallIndex = toolCallIndexes.size;
      toolCallIndexes.set(index, toolCallIndex);
      const { id, name, input } = block;
      const args = input && Object.keys(input).length > 0 ? JSON.stringify(input) : '';
      parts.toolCall({
        type: 'tool_call',
        index: toolCallIndex,
        ...(id && { id }),
        ...(name && { name }),
        arguments: args,
      });
    }
  }

  function onDelta({ index = 0, delta }: Event): void {
    if (delta?.type === 'text_delta' && delta.text) parts.text('text', delta.text);
    else if (delta?.type === 'thinking_delta' && delta.thinking) parts.text('reasoning', delta.thinking);
    else if (delta?.type === 'input_json_delta' && delta.partial_json) {
      const toolCallIndex = toolCallIndexes.get(index);
      if (toolCallIndex === undefined) return;
      parts.toolCall({ type: 'tool_call', index: toolCallIndex, arguments: delta.partial_json });
    }
  }

  return {
    push: sse.push,
    end: sse.end,
    get done() {
      return isDone;
    },
    finish() {
      if (!isDone && rawReason === undefined) throw truncatedError();
      return finishPart(rawReason, usageOf(counts));
    },
  };
}

/**
 * Returns the usage. Adds the cached tokens to the input tokens: Anthropic counts them separately, other
 * providers include them.
 */
function usageOf(counts: Counts): Usage | undefined {
  const details = (counts.output_tokens_details ?? {}) as Counts;
  const inputs = [counts.input_tokens, counts.cache_read_input_tokens, counts.cache_creation_input_tokens];
  const inputCounts = inputs.filter((count) => typeof count === 'number');
  return usageFrom({
    inputTokens: inputCounts.length > 0 ? inputCounts.reduce((sum, count) => sum + count, 0) : undefined,
    outputTokens: counts.output_tokens,
    reasoningTokens: details.thinking_tokens,
    cachedTokens: counts.cache_read_input_tokens,
    cacheWriteTokens: counts.cache_creation_input_tokens,
  });
}
