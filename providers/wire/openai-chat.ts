import { ProviderError, type UpstreamDetail } from '../errors.ts';
import type { ChatRequest, FinishPart, Usage } from '../types.ts';
import { finishReason } from './finish-reason.ts';
import { openAIUsage } from './openai-usage.ts';
import type { PartBuffer } from './parts.ts';
import { type AnswerDecoder, truncated } from './read-answer.ts';
import { createSseDecoder, type SseEvent } from './sse.ts';
import { upstreamDetail } from './status-error.ts';
import { createToolCalls, type ToolCallDelta } from './tool-calls.ts';

/** The Chat Completions dialect, which most providers speak. */

export interface OpenAIChatDialect {
  /** The name under which the model takes its token limit. */
  readonly maxTokensField: 'max_tokens' | 'max_completion_tokens';
  /** Whether to ask for a usage chunk; a few upstreams refuse the field and send usage unasked. */
  readonly streamOptions: boolean;
  /** Whether text that repeats the reasoning of the same chunk is left out. */
  readonly dropsCopiedReasoning?: boolean;
}

export function openAIChatBody(request: ChatRequest, options: OpenAIChatDialect): Record<string, unknown> {
  return {
    model: request.model,
    messages: request.messages,
    stream: true,
    ...(options.streamOptions && { stream_options: { include_usage: true } }),
    ...(request.temperature !== undefined && { temperature: request.temperature }),
    ...(request.maxTokens !== undefined && { [options.maxTokensField]: request.maxTokens }),
    ...(request.stop !== undefined && { stop: request.stop }),
  };
}

interface Delta {
  content?: unknown;
  reasoning_content?: unknown;
  reasoning?: unknown;
  refusal?: unknown;
  tool_calls?: ToolCallDelta[] | null;
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
  choices?: Choice[] | null;
  usage?: unknown;
  x_groq?: { usage?: unknown } | null;
}

/**
 * Reads `chat.completion.chunk` events, null-safe in every field, choice 0 only.
 *
 * Success is a finish reason, `[DONE]`, or a usage chunk without choices (Snowflake sends no finish
 * reason) — and no error, which may come in the chunk, as an `error` event, or as a finish reason.
 */
export function createOpenAIChatDecoder(parts: PartBuffer, dialect: OpenAIChatDialect): AnswerDecoder {
  const toolCalls = createToolCalls(parts);
  const sse = createSseDecoder(onEvent);
  let usage: Usage | undefined;
  let rawReason: string | undefined;
  let refused = false;
  let complete = false;
  let done = false;

  function onEvent(event: SseEvent): void {
    const data = event.data.trim();
    if (done || data === '') return;
    if (data === '[DONE]') {
      done = true;
      return;
    }
    const chunk = parseChunk(event, data);
    if (event.event === 'error' || (chunk.error ?? null) !== null || chunk.object === 'error') {
      throw inBandError(upstreamDetail(chunk));
    }
    usage = openAIUsage(chunk.usage) ?? openAIUsage(chunk.x_groq?.usage) ?? usage;
    const choices = chunk.choices ?? [];
    if (choices.length === 0 && openAIUsage(chunk.usage) !== undefined) complete = true;
    for (const choice of choices) if ((choice.index ?? 0) === 0) onChoice(choice);
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
      const copied = dialect.dropsCopiedReasoning === true && delta.content === reasoning;
      if (delta.content !== '' && !copied) parts.text('text', delta.content);
    } else if (Array.isArray(delta.content)) {
      for (const block of delta.content) onContentBlock(block);
    }
    if (typeof delta.refusal === 'string' && delta.refusal !== '') refused = true;
    if (delta.tool_calls) for (const call of delta.tool_calls) toolCalls.add(call);
  }

  /** Mistral's reasoning models: `{type:'text'}` and `{type:'thinking', thinking:[{type:'text'}]}`. */
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
      return done;
    },
    finish(): FinishPart {
      if (!done && !complete && rawReason === undefined) throw truncated();
      const reason = rawReason === undefined ? 'stop' : finishReason(rawReason);
      return {
        type: 'finish',
        reason: refused ? 'content_filter' : reason === 'error' ? 'other' : reason,
        ...(rawReason !== undefined && { rawReason }),
        ...(usage && { usage }),
      };
    },
  };
}

function parseChunk(event: SseEvent, data: string): Chunk {
  let chunk: unknown;
  try {
    chunk = JSON.parse(data);
  } catch {
    if (event.event === 'error') throw inBandError({});
    if (event.unterminated) throw truncated();
    throw new ProviderError('upstream_protocol', { reason: 'bad_json', retryable: false });
  }
  if (typeof chunk === 'object' && chunk !== null) return chunk;
  throw new ProviderError('upstream_protocol', { reason: 'bad_chunk', retryable: false });
}

/** An error inside a 200. Asking again helps unless the provider blames the request. */
function inBandError(upstream: UpstreamDetail): ProviderError {
  const status = Number(upstream.code);
  const blamed = upstream.type === 'invalid_request_error' || (status >= 400 && status < 500 && status !== 429);
  return new ProviderError('upstream_error', { reason: 'in_band', retryable: !blamed, upstream });
}
