import type { Usage } from '../types.ts';
import { finishPart, finishReason } from './finish-reason.ts';
import { inBandError } from './in-band-error.ts';
import { parseEvent } from './json.ts';
import { openAIUsage } from './openai-usage.ts';
import type { PartBuffer } from './parts.ts';
import { type AnswerDecoder, truncatedError } from './read-answer.ts';
import { createSseDecoder, type WireEvent } from './sse.ts';
import { upstreamDetail } from './status-error.ts';
import { createToolCalls, type ToolCallDelta } from './tool-calls.ts';

interface Delta {
  content?: unknown;
  reasoning_content?: unknown;
  reasoning?: unknown;
  refusal?: unknown;
  tool_calls?: (ToolCallDelta | null)[] | null;
}

interface Choice {
  index?: number;
  delta?: Delta | null;
  finish_reason?: string | null;
  usage?: unknown;
}

interface Chunk {
  object?: string;
  error?: unknown;
  choices?: (Choice | null)[] | null;
  usage?: unknown;
  x_groq?: { usage?: unknown } | null;
}

export interface DecoderOptions {
  /** True to leave out text that repeats the reasoning of the same chunk. */
  readonly dropsCopiedReasoning?: boolean;
}

/**
 * Creates a decoder for `chat.completion.chunk` events. Reads choice 0 only. Every field may be null.
 *
 * The answer is complete with a finish reason, with `[DONE]`, or with a usage chunk without choices (Snowflake
 * sends no finish reason). An error may be a chunk, an `error` event, or a finish reason.
 */
export function createOpenAIChatDecoder(parts: PartBuffer, options: DecoderOptions = {}): AnswerDecoder {
  const toolCalls = createToolCalls(parts);
  const sse = createSseDecoder(onEvent);
  let usage: Usage | undefined;
  let rawReason: string | undefined;
  let isRefused = false;
  let hasToolCalls = false;
  let hasFinalUsage = false;
  let isDone = false;

  function onEvent(event: WireEvent): void {
    const data = event.data.trim();
    if (isDone || data === '') return;
    if (data === '[DONE]') {
      isDone = true;
      return;
    }
    const chunk = parseEvent<Chunk>(event, data);
    if (event.event === 'error' || (chunk.error ?? null) !== null || chunk.object === 'error') {
      throw inBandError(upstreamDetail(chunk));
    }
    usage = openAIUsage(chunk.usage) ?? openAIUsage(chunk.x_groq?.usage) ?? usage;
    const choices = chunk.choices ?? [];
    if (choices.length === 0 && openAIUsage(chunk.usage) !== undefined) hasFinalUsage = true;
    for (const choice of choices) if (choice !== null && (choice.index ?? 0) === 0) onChoice(choice);
  }

  function onChoice({ delta, finish_reason: reason, usage: choiceUsage }: Choice): void {
    usage = openAIUsage(choiceUsage) ?? usage;
    if (delta) onDelta(delta);
    if (typeof reason !== 'string' || reason === '') return;
    rawReason = reason;
    if (finishReason(reason) === 'error') throw inBandError({ code: reason });
  }

  function onDelta(delta: Delta): void {
    const reasoning = delta.reasoning_content ?? delta.reasoning;
    if (typeof reasoning === 'string' && reasoning !== '') parts.text('reasoning', reasoning);
    if (typeof delta.content === 'string') {
      const isCopy = options.dropsCopiedReasoning === true && delta.content === reasoning;
      if (delta.content !== '' && !isCopy) parts.text('text', delta.content);
    } else if (Array.isArray(delta.content)) {
      for (const block of delta.content) onContentBlock(block);
    }
    if (typeof delta.refusal === 'string' && delta.refusal !== '') isRefused = true;
    for (const call of delta.tool_calls ?? []) {
      if (call === null) continue;
      toolCalls.add(call);
      hasToolCalls = true;
    }
  }

  /**
   * Handles a content block of Mistral's reasoning models, which is one of these:
   * `{type:'text'}`, `{type:'thinking', thinking:[{type:'text'}]}`.
   */
  function onContentBlock(block: { type?: string; text?: unknown; thinking?: unknown } | null): void {
    if (typeof block?.text === 'string') parts.text('text', block.text);
    if (!Array.isArray(block?.thinking)) return;
    for (const thought of block.thinking) {
      if (typeof thought?.text === 'string') parts.text('reasoning', thought.text);
    }
  }

  return {
    push: sse.push,
    end: sse.end,
    get done() {
      return isDone;
    },
    finish() {
      if (!isDone && !hasFinalUsage && rawReason === undefined) throw truncatedError();
      // Snowflake sends no finish reason. Then only the tool calls themselves can set the reason.
      const part = finishPart(rawReason, usage, rawReason === undefined && hasToolCalls);
      return isRefused ? { ...part, reason: 'content_filter' } : part;
    },
  };
}
