import { ProviderError } from '../errors.ts';
import type { Usage } from '../types.ts';
import { usageFrom } from './counts.ts';
import { finishPart } from './finish-reason.ts';
import { inBandError } from './in-band-error.ts';
import { parseEvent } from './json.ts';
import type { PartBuffer } from './parts.ts';
import { type AnswerDecoder, truncatedError } from './read-answer.ts';
import { createSseDecoder, type WireEvent } from './sse.ts';
import { upstreamDetail } from './status-error.ts';

interface Part {
  text?: string | null;
  thought?: boolean | null;
  functionCall?: { id?: string | null; name?: string | null; args?: object | null } | null;
}

interface Candidate {
  index?: number | null;
  content?: { parts?: (Part | null)[] | null } | null;
  finishReason?: string | null;
}

interface Chunk {
  error?: unknown;
  candidates?: (Candidate | null)[] | null;
  promptFeedback?: { blockReason?: string | null } | null;
  usageMetadata?: Record<string, unknown> | null;
}

/**
 * Creates a decoder for a `streamGenerateContent` stream. Reads candidate 0 only. The answer is complete with a
 * finish reason and the end of the body: some models send a finish reason in every chunk, and an error may
 * follow it.
 */
export function createGeminiDecoder(parts: PartBuffer): AnswerDecoder {
  const sse = createSseDecoder(onEvent);
  let toolCallCount = 0;
  let usage: Usage | undefined;
  let rawReason: string | undefined;

  function onEvent(event: WireEvent): void {
    if (event.data.trim() === '') return;
    const chunk = parseEvent<Chunk>(event, event.data);
    if (event.event === 'error' || (chunk.error ?? null) !== null) throw inBandError(upstreamDetail(chunk));
    usage = usageOf(chunk.usageMetadata) ?? usage; // cumulative
    const candidates = chunk.candidates ?? [];
    if (candidates.length === 0 && chunk.promptFeedback?.blockReason) throw promptBlockedError();
    for (const candidate of candidates) {
      if (candidate === null || (candidate.index ?? 0) !== 0) continue;
      for (const part of candidate.content?.parts ?? []) if (part !== null) onPart(part);
      rawReason = candidate.finishReason || rawReason;
    }
  }

  function onPart({ text, thought, functionCall }: Part): void {
    if (text) parts.text(thought ? 'reasoning' : 'text', text);
    if (!functionCall) return;
    const { id, name, args } = functionCall;
    parts.toolCall({
      type: 'tool_call',
      index: toolCallCount,
      ...(id && { id }),
      ...(name && { name }),
      arguments: JSON.stringify(args ?? {}),
    });
    toolCallCount += 1;
  }

  return {
    push: sse.push,
    end: sse.end,
    done: false,
    finish() {
      if (rawReason === undefined) throw truncatedError();
      return finishPart(rawReason, usage, toolCallCount > 0);
    },
  };
}

/** Returns the error for a prompt that Gemini's filter has blocked. The response has no candidates then. */
function promptBlockedError(): ProviderError {
  return new ProviderError('upstream_rejected', { reason: 'prompt_blocked', retryable: false });
}

/** Returns the usage. `candidatesTokenCount` does not include the reasoning tokens. */
function usageOf(raw: Record<string, unknown> | null | undefined): Usage | undefined {
  return usageFrom({
    inputTokens: raw?.promptTokenCount,
    outputTokens: raw?.candidatesTokenCount,
    totalTokens: raw?.totalTokenCount,
    reasoningTokens: raw?.thoughtsTokenCount,
    cachedTokens: raw?.cachedContentTokenCount,
  });
}
