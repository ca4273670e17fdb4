import { ProviderError } from '../errors.ts';
import type { AnswerState, Usage } from '../types.ts';
import { createAnswerEnd } from './answer-end.ts';
import { mergeUsage, usageFrom } from './counts.ts';
import { finishClass, finishWord } from './finish-reason.ts';
import { inBandError } from './in-band-error.ts';
import { parseEvent } from './json.ts';
import type { PartBuffer } from './parts.ts';
import type { AnswerDecoder } from './read-answer.ts';
import { createSseDecoder, type WireEvent } from './sse.ts';
import { hasError, upstreamDetail } from './status-error.ts';
import { createToolCalls } from './tool-calls.ts';

interface Part {
  text?: string | null;
  thought?: boolean | null;
  thoughtSignature?: string | null;
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
 * Creates a decoder for a `streamGenerateContent` stream. Reads candidate 0 only. Some models send a finish reason
 * in every chunk, and some gateways send one in empty chunks before the answer (kelivo#1003), so that one without
 * content before it counts only at the end of the stream.
 */
export function createGeminiDecoder(parts: PartBuffer): AnswerDecoder {
  const toolCalls = createToolCalls(parts);
  const answerEnd = createAnswerEnd(parts);
  const sse = createSseDecoder(onEvent);
  const extraContent: Record<string, Record<string, unknown>> = {};
  let usage: Usage | undefined;
  let leadingReason: string | undefined;

  function onEvent(event: WireEvent): void {
    const data = event.data.trim();
    if (data === '' || data === '[DONE]') return;
    const chunk = parseEvent<Chunk>(event, data);
    const candidates = chunk.candidates ?? [];
    const hasAnswer = candidates.length > 0 || Boolean(chunk.usageMetadata ?? chunk.promptFeedback);
    if (event.event === 'error' || hasError(chunk, hasAnswer, event.isDocument)) {
      throw inBandError(upstreamDetail(chunk));
    }
    usage = mergeUsage(usage, usageOf(chunk.usageMetadata));
    if (candidates.length === 0 && chunk.promptFeedback?.blockReason) throw promptBlockedError();
    for (const candidate of candidates) if (candidate && (candidate.index ?? 0) === 0) onCandidate(candidate);
  }

  function onCandidate({ content, finishReason }: Candidate): void {
    for (const part of content?.parts ?? []) if (part !== null) onPart(part);
    const word = finishWord(finishReason);
    if (word === undefined) return;
    const meaning = finishClass(word);
    if (!parts.hasContent && meaning === 'stop') leadingReason = word;
    else answerEnd.reason(word);
  }

  function onPart({ text, thought, thoughtSignature, functionCall }: Part): void {
    if (text) parts.text(thought ? 'reasoning' : 'text', text);
    // After the text, which ends what was reported before. The rest of the thoughts may take long.
    if (text && thought) parts.thinking();
    if (!functionCall) return;
    if (thoughtSignature) extraContent[toolCalls.count] = { google: { thought_signature: thoughtSignature } };
    toolCalls.addWhole({ ...functionCall, arguments: functionCall.args ?? {} });
  }

  function stateOf(): { state?: AnswerState } {
    return Object.keys(extraContent).length > 0 ? { state: { extraContent } } : {};
  }

  return {
    push: sse.push,
    end: sse.end,
    done: false,
    get isFinished() {
      return answerEnd.isFinished;
    },
    finish() {
      toolCalls.flush();
      // An empty answer.
      if (!parts.hasContent && leadingReason !== undefined) answerEnd.reason(leadingReason);
      return { ...answerEnd.finish(usage, toolCalls.count > 0), ...stateOf() };
    },
  };
}

/** Returns the error for a prompt that Gemini's filter has blocked. The response has no candidates then. */
function promptBlockedError(): ProviderError {
  return new ProviderError('upstream_rejected', { reason: 'prompt_blocked', retryable: false });
}

/**
 * Returns the usage. `candidatesTokenCount` does not include the reasoning tokens, which are paid as output and
 * are part of the output of other providers.
 */
function usageOf(raw: Record<string, unknown> | null | undefined): Usage | undefined {
  const { candidatesTokenCount: output, thoughtsTokenCount: reasoning } = raw ?? {};
  const outputCounts = [output, reasoning].filter((count) => typeof count === 'number');
  return usageFrom({
    inputTokens: raw?.promptTokenCount,
    outputTokens: outputCounts.length > 0 ? outputCounts.reduce((sum, count) => sum + count, 0) : undefined,
    totalTokens: raw?.totalTokenCount,
    reasoningTokens: reasoning,
    cachedTokens: raw?.cachedContentTokenCount,
  });
}
