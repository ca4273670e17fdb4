import { ProviderError } from './errors.ts';
import type { ChatMessage, ChatRequest, Provider, Usage } from './types.ts';
import { usageFrom } from './wire/counts.ts';
import { inlineData } from './wire/data-url.ts';
import { finishPart } from './wire/finish-reason.ts';
import { inBandError } from './wire/in-band-error.ts';
import { parseEvent, parseObject } from './wire/json.ts';
import { sortToolResults } from './wire/messages.ts';
import { createNdjsonDecoder } from './wire/ndjson.ts';
import { openAITools } from './wire/openai-body.ts';
import type { PartBuffer } from './wire/parts.ts';
import { bearer, createHttpProvider, type ProviderOptions } from './wire/provider.ts';
import { type AnswerDecoder, truncatedError } from './wire/read-answer.ts';
import type { WireEvent } from './wire/sse.ts';
import { upstreamDetail } from './wire/status-error.ts';

export const OLLAMA_BASE_URL = 'http://127.0.0.1:11434';

/** Ollama's own API: `/api/chat`, one JSON object a line. */
export function createOllama(options: ProviderOptions): Provider {
  return createHttpProvider(options, {
    contentType: 'application/x-ndjson',
    authorization: bearer,
    call: (request) => ({ path: '/api/chat', body: ollamaBody(request) }),
    createDecoder: createOllamaDecoder,
  });
}

function ollamaBody(request: ChatRequest): Record<string, unknown> {
  const options = {
    ...(request.temperature !== undefined && { temperature: request.temperature }),
    ...(request.topP !== undefined && { top_p: request.topP }),
    ...(request.maxTokens !== undefined && { num_predict: request.maxTokens }),
    ...(request.stop !== undefined && { stop: request.stop }),
  };
  // It knows no tool choice; leaving the tools out is the one that it can be told.
  const tools = request.toolChoice === 'none' ? undefined : request.tools;
  return {
    model: request.model,
    messages: sortToolResults(request.messages).map(ollamaMessage),
    stream: true,
    ...(Object.keys(options).length > 0 && { options }),
    ...(tools !== undefined && { tools: openAITools(tools) }),
  };
}

function ollamaMessage(message: ChatMessage): object {
  if (message.role === 'tool') return { role: 'tool', tool_name: message.name, content: message.content };
  if (message.role === 'assistant' && message.toolCalls !== undefined) {
    const calls = message.toolCalls.map(({ name, arguments: args }) => ({
      function: { name, arguments: parseObject(args) },
    }));
    const { content, reasoning: thinking } = message;
    return { role: 'assistant', content, ...(thinking && { thinking }), tool_calls: calls };
  }
  if (typeof message.content === 'string') return { role: message.role, content: message.content };
  const text = message.content.flatMap((block) => (block.type === 'text' ? [block.text] : []));
  const images = message.content.flatMap((block) => (block.type === 'image' ? [imageData(block.url)] : []));
  return { role: 'user', content: text.join('\n'), ...(images.length > 0 && { images }) };
}

/** It takes images inline only. */
function imageData(url: string): string {
  const inline = inlineData(url);
  if (inline !== undefined) return inline.data;
  throw new ProviderError('upstream_rejected', { reason: 'image_url', retryable: false, upstreamStatus: 400 });
}

interface Call {
  id?: string | null;
  function?: { name?: string | null; arguments?: object | null } | null;
}

interface Line {
  error?: unknown;
  message?: {
    content?: string | null;
    thinking?: string | null;
    tool_calls?: (Call | null)[] | null;
  } | null;
  done?: boolean;
  done_reason?: string | null;
  prompt_eval_count?: number;
  eval_count?: number;
}

/** Success is a line with `done`; an error is a line of its own, after which nothing comes. */
export function createOllamaDecoder(parts: PartBuffer): AnswerDecoder {
  const lines = createNdjsonDecoder(onLine);
  let last: Line | undefined;
  let calls = 0;

  function onLine(event: WireEvent): void {
    if (last !== undefined || event.data.trim() === '') return;
    const line = parseEvent<Line>(event, event.data);
    if ((line.error ?? null) !== null) throw inBandError(upstreamDetail(line));
    const { thinking, content, tool_calls: made } = line.message ?? {};
    if (thinking) parts.text('reasoning', thinking);
    if (content) parts.text('text', content);
    for (const call of made ?? []) {
      if (call === null) continue;
      const { id, function: called } = call;
      const args = JSON.stringify(called?.arguments ?? {});
      parts.toolCall({
        type: 'tool_call',
        index: calls,
        ...(id && { id }),
        ...(called?.name && { name: called.name }),
        arguments: args,
      });
      calls += 1;
    }
    if (line.done === true) last = line;
  }

  return {
    push: lines.push,
    end: lines.end,
    get done() {
      return last !== undefined;
    },
    finish() {
      if (last === undefined) throw truncatedError();
      return finishPart(last.done_reason ?? undefined, usageOf(last), calls > 0);
    },
  };
}

function usageOf({ prompt_eval_count: inputTokens, eval_count: outputTokens }: Line): Usage | undefined {
  return usageFrom({ inputTokens, outputTokens });
}
