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
 * Reads a Messages stream: blocks, each begun, continued and ended, between `message_start` and
 * `message_stop`. Success is `message_stop`, or a stop reason and a clean end. What is not known,
 * such as the calls and results of tools on their side, is passed over.
 */
export function createAnthropicDecoder(parts: PartBuffer): AnswerDecoder {
  const sse = createSseDecoder(onEvent);
  /** Which of our tool calls a block is. */
  const calls = new Map<number, number>();
  let counted: Counts = {};
  let rawReason: string | undefined;
  let done = false;

  function onEvent(event: WireEvent): void {
    if (done || event.data.trim() === '') return;
    const data = parseEvent<Event>(event, event.data);
    if (event.event === 'error' || data.type === 'error') throw inBandError(upstreamDetail(data));
    if (data.type === 'message_start') count(data.message?.usage);
    else if (data.type === 'content_block_start') onBlock(data);
    else if (data.type === 'content_block_delta') onDelta(data);
    else if (data.type === 'message_delta') {
      count(data.usage); // cumulative
      rawReason = data.delta?.stop_reason ?? rawReason;
    } else if (data.type === 'message_stop') done = true;
  }

  function count(usage: Counts | null | undefined): void {
    for (const [name, value] of Object.entries(usage ?? {}))
      if (value !== null) counted = { ...counted, [name]: value };
  }

  function onBlock({ index = 0, content_block: block }: Event): void {
    if (block?.type === 'text' && block.text) parts.text('text', block.text);
    else if (block?.type === 'thinking' && block.thinking) parts.text('reasoning', block.thinking);
    else if (block?.type === 'tool_use') {
      calls.set(index, calls.size);
      const { id, name, input } = block;
      const args = input && Object.keys(input).length > 0 ? JSON.stringify(input) : '';
      parts.toolCall({
        type: 'tool_call',
        index: calls.size - 1,
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
      const call = calls.get(index);
      if (call !== undefined) parts.toolCall({ type: 'tool_call', index: call, arguments: delta.partial_json });
    }
  }

  return {
    push: sse.push,
    end: sse.end,
    get done() {
      return done;
    },
    finish() {
      if (!done && rawReason === undefined) throw truncatedError();
      return finishPart(rawReason, usageOf(counted));
    },
  };
}

/** Tokens that the cache gave or took are not among `input_tokens` here; with everybody else they are. */
function usageOf(counted: Counts): Usage | undefined {
  const details = (counted.output_tokens_details ?? {}) as Counts;
  const input = [counted.input_tokens, counted.cache_read_input_tokens, counted.cache_creation_input_tokens];
  const given = input.filter((count) => typeof count === 'number');
  return usageFrom({
    inputTokens: given.length > 0 ? given.reduce((sum, count) => sum + count, 0) : undefined,
    outputTokens: counted.output_tokens,
    reasoningTokens: details.thinking_tokens,
    cachedTokens: counted.cache_read_input_tokens,
    cacheWriteTokens: counted.cache_creation_input_tokens,
  });
}
