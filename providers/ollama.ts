import type { Provider, Usage } from './types.ts';
import { createAnswerEnd } from './wire/answer-end.ts';
import { mergeUsage, usageFrom } from './wire/counts.ts';
import { finishWord } from './wire/finish-reason.ts';
import { inBandError } from './wire/in-band-error.ts';
import { parseEvent } from './wire/json.ts';
import { createNdjsonDecoder } from './wire/ndjson.ts';
import { ollamaBody } from './wire/ollama-body.ts';
import type { PartBuffer } from './wire/parts.ts';
import { bearer, createHttpProvider, type ProviderOptions } from './wire/provider.ts';
import type { AnswerDecoder } from './wire/read-answer.ts';
import type { WireEvent } from './wire/sse.ts';
import { hasError, upstreamDetail } from './wire/status-error.ts';
import { createToolCalls } from './wire/tool-calls.ts';
import { unsupportedOption } from './wire/unsupported.ts';

export const OLLAMA_BASE_URL = 'http://127.0.0.1:11434';

/** Creates a provider for Ollama's own API: `/api/chat`, one JSON object per line. */
export function createOllama(options: ProviderOptions): Provider {
  return createHttpProvider(options, {
    contentType: 'application/x-ndjson',
    authorization: bearer,
    call: (request) => ({ path: '/api/chat', body: ollamaBody(request) }),
    unsupported: (request) => unsupportedOption(request, 'ollama'),
    createDecoder: createOllamaDecoder,
  });
}

interface ToolCall {
  id?: string | null;
  function?: { name?: string | null; arguments?: object | null } | null;
}

interface Line {
  error?: unknown;
  message?: {
    content?: string | null;
    thinking?: string | null;
    tool_calls?: (ToolCall | null)[] | null;
  } | null;
  done?: boolean;
  done_reason?: string | null;
  prompt_eval_count?: number;
  eval_count?: number;
}

/**
 * Creates a decoder for an `/api/chat` stream. A line with `done` has the finish reason. An error is a line of its
 * own and the last one.
 */
export function createOllamaDecoder(parts: PartBuffer): AnswerDecoder {
  const toolCalls = createToolCalls(parts);
  const answerEnd = createAnswerEnd(parts);
  const lines = createNdjsonDecoder(onLine);
  let usage: Usage | undefined;

  function onLine(event: WireEvent): void {
    const data = event.data.trim();
    if (answerEnd.done || data === '' || data === '[DONE]') return;
    const line = parseEvent<Line>(event, data);
    if (hasError(line, typeof line.message === 'object' || line.done !== undefined))
      throw inBandError(upstreamDetail(line));
    if (answerEnd.isFinished) return;
    const { thinking, content, tool_calls: calls } = line.message ?? {};
    if (thinking) {
      parts.text('reasoning', thinking);
      parts.thinking();
    }
    if (content) parts.text('text', content);
    for (const call of calls ?? []) {
      if (call) toolCalls.addWhole({ id: call.id, ...call.function, arguments: call.function?.arguments ?? {} });
    }
    usage = mergeUsage(usage, usageOf(line));
    if (line.done !== true) return;
    // Not the marker of the end if it has a reason: an error may still follow.
    const word = finishWord(line.done_reason);
    if (word === undefined) answerEnd.marker();
    else answerEnd.reason(word);
  }

  return {
    push: lines.push,
    end: lines.end,
    get done() {
      return answerEnd.done;
    },
    get isFinished() {
      return answerEnd.isFinished;
    },
    finish() {
      toolCalls.flush();
      return answerEnd.finish(usage, toolCalls.count > 0);
    },
  };
}

function usageOf({ prompt_eval_count: inputTokens, eval_count: outputTokens }: Line): Usage | undefined {
  return usageFrom({ inputTokens, outputTokens });
}
