import { ProviderError } from '../errors.ts';
import type { FinishPart, ReasoningDetail, Usage } from '../types.ts';
import { createAnswerEnd } from './answer-end.ts';
import { THINKING_FORMAT } from './anthropic-messages.ts';
import { nonZero, usageFrom } from './counts.ts';
import { createEventParser, type TextPlace } from './event-parser.ts';
import { finishWord } from './finish-reason.ts';
import { inBandError } from './in-band-error.ts';
import { answerState } from './openai-state.ts';
import type { PartBuffer } from './parts.ts';
import type { AnswerDecoder } from './read-answer.ts';
import { createSseDecoder, type WireEvent } from './sse.ts';
import { hasError, upstreamDetail } from './status-error.ts';
import { createToolCalls, type ToolCalls } from './tool-calls.ts';

interface Event extends Message {
  type?: string;
  index?: number;
  message?: Message | null;
  content_block?: Block | null;
  delta?: Delta | null;
}

/** The message of `message_start`, or a whole answer. */
interface Message {
  model?: string | null;
  content?: (Block | null)[] | null;
  stop_reason?: string | null;
  usage?: Counts | null;
}

interface Block {
  type?: string;
  id?: string | null;
  name?: string | null;
  text?: string | null;
  thinking?: string | null;
  signature?: string | null;
  /** Content of a `redacted_thinking` block. */
  data?: string | null;
  input?: object | null;
}

interface Delta {
  type?: string;
  text?: string | null;
  thinking?: string | null;
  signature?: string | null;
  partial_json?: string | null;
  stop_reason?: string | null;
}

type Counts = Record<string, unknown>;

const TEXT: TextPlace<Event> = { fields: ['text', 'thinking'], holder: ({ delta }) => delta };

/** A thinking block. The API wants it back, unchanged, with the results of the tool calls that follow. */
interface ThinkingBlock {
  text: string;
  signature: string;
  /** Set for a `redacted_thinking` block. */
  readonly data?: string;
  /** Index of the tool call that follows. */
  readonly before: number;
}

/**
 * Creates a decoder for a Messages stream: blocks with start, delta and stop events, between `message_start`
 * and `message_stop`. Ignores unknown events and blocks, such as calls and results of server-side tools.
 */
export function createAnthropicDecoder(parts: PartBuffer): AnswerDecoder {
  const toolCalls = createToolCalls(parts);
  const answerEnd = createAnswerEnd(parts);
  const sse = createSseDecoder(onEvent);
  const parse = createEventParser(TEXT);
  /** Indexes of the blocks that are tool calls. */
  const toolBlocks = new Set<number>();
  /** Thinking blocks by index. */
  const thinkingBlocks = new Map<number, ThinkingBlock>();
  const counts: Counts = {};
  let model: string | undefined;
  let hasStarted = false;

  function onEvent(event: WireEvent): void {
    const text = event.data.trim();
    if (answerEnd.done || text === '' || text === '[DONE]') return;
    const data = parse(event, text);
    if (event.event === 'error' || data.type === 'error' || hasError(data, data.type !== undefined, event.isDocument)) {
      throw inBandError(upstreamDetail(data));
    }
    if (data.type === 'message_start') onStart(data.message ?? {});
    else if (data.type === 'content_block_start') onBlock(data.index ?? 0, data.content_block);
    else if (data.type === 'content_block_delta') onDelta(data.index ?? 0, data.delta);
    else if (data.type === 'message_delta')
      onEndOf({ usage: data.usage ?? null, stop_reason: data.delta?.stop_reason ?? null });
    else if (data.type === 'message_stop') answerEnd.marker();
    else if (data.type === 'message') onWholeMessage(data);
  }

  function onStart(message: Message): void {
    // A proxy has asked again in the middle: both messages would be read as one.
    if (hasStarted) throw new ProviderError('upstream_protocol', { reason: 'second_message', retryable: true });
    hasStarted = true;
    model = message.model ?? undefined;
    addCounts(message.usage);
  }

  function onWholeMessage(message: Message): void {
    model = message.model ?? undefined;
    for (const [index, block] of (message.content ?? []).entries()) onBlock(index, block);
    onEndOf(message);
    answerEnd.marker();
  }

  function onEndOf({ usage: counted, stop_reason: reason }: Message): void {
    addCounts(counted);
    const word = finishWord(reason);
    if (word !== undefined) answerEnd.reason(word);
  }

  /** Adds counts. They are cumulative, so they never fall: some proxies send a smaller or empty report last. */
  function addCounts(next: Counts | null | undefined): void {
    for (const [name, value] of Object.entries(next ?? {})) {
      const known = counts[name];
      if (typeof value === 'number' && typeof known === 'number') counts[name] = Math.max(known, value);
      else if (value !== null) counts[name] = value;
    }
  }

  function onBlock(index: number, block: Block | null | undefined): void {
    if (block?.type === 'text' && block.text) parts.text('text', block.text);
    else if (block?.type === 'thinking' || block?.type === 'redacted_thinking') onThinkingBlock(index, block);
    else if (block?.type === 'tool_use') {
      toolBlocks.add(index);
      const { id, name, input } = block;
      const args = input && Object.keys(input).length > 0 ? input : '';
      toolCalls.add([{ index, id, function: { name, arguments: args } }]);
    }
  }

  function onThinkingBlock(index: number, { thinking, signature, data }: Block): void {
    thinkingBlocks.set(index, { text: '', signature: '', before: toolCalls.count, ...(data && { data }) });
    onThinking(index, thinking ?? '');
    addSignature(index, signature);
  }

  function onThinking(index: number, text: string): void {
    const block = thinkingBlocks.get(index);
    if (block !== undefined) block.text += text;
    if (text !== '') parts.text('reasoning', text);
    // After the text, which ends what was reported before. The model may be silent now, also without any text.
    parts.thinking();
  }

  function addSignature(index: number, signature: string | null | undefined): void {
    const block = thinkingBlocks.get(index);
    if (block !== undefined && signature) block.signature += signature;
  }

  function onDelta(index: number, delta: Delta | null | undefined): void {
    if (delta?.type === 'text_delta' && delta.text) parts.text('text', delta.text);
    else if (delta?.type === 'thinking_delta') onThinking(index, delta.thinking ?? '');
    else if (delta?.type === 'signature_delta') addSignature(index, delta.signature);
    else if (delta?.type === 'input_json_delta' && delta.partial_json && toolBlocks.has(index)) {
      toolCalls.add([{ index, function: { arguments: delta.partial_json } }]);
    }
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
      const finish = answerEnd.finish(usageOf(counts), toolCalls.count > 0);
      return toolCalls.count > 0 ? withState(finish, [...thinkingBlocks.values()], model, toolCalls) : finish;
    },
  };
}

/** Adds the thinking blocks to the finish part. A block without signature, as other vendors send it, is not needed. */
function withState(
  finish: FinishPart,
  blocks: readonly ThinkingBlock[],
  model: string | undefined,
  toolCalls: ToolCalls,
): FinishPart {
  const details = blocks.flatMap(({ text, signature, data, before }): ReasoningDetail[] => {
    const origin = { format: THINKING_FORMAT, before, ...(model !== undefined && { model }) };
    if (data !== undefined) return [{ type: 'reasoning.encrypted', data, ...origin }];
    return signature === '' ? [] : [{ type: 'reasoning.text', text, signature, ...origin }];
  });
  const state = answerState(details, toolCalls);
  return state ? { ...finish, state } : finish;
}

/**
 * Returns the usage. Adds the cached tokens to the input tokens: Anthropic counts them separately, other
 * providers include them.
 */
function usageOf(counts: Counts): Usage | undefined {
  const details = (counts.output_tokens_details ?? {}) as Counts;
  const cacheCreation = (counts.cache_creation ?? {}) as Counts;
  const inputs = [counts.input_tokens, counts.cache_read_input_tokens, counts.cache_creation_input_tokens];
  const inputCounts = inputs.filter((count) => typeof count === 'number');
  return usageFrom({
    inputTokens: inputCounts.length > 0 ? inputCounts.reduce((sum, count) => sum + count, 0) : undefined,
    outputTokens: counts.output_tokens,
    reasoningTokens: details.thinking_tokens,
    cachedTokens: counts.cache_read_input_tokens,
    cacheWriteTokens: counts.cache_creation_input_tokens,
    longCacheWriteTokens: nonZero(cacheCreation.ephemeral_1h_input_tokens),
  });
}
