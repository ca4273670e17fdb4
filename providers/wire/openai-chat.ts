import type { Usage } from '../types.ts';
import { createAnswerEnd } from './answer-end.ts';
import { mergeUsage } from './counts.ts';
import { createEventParser, type TextPlace } from './event-parser.ts';
import { finishClass, finishWord } from './finish-reason.ts';
import { inBandError } from './in-band-error.ts';
import type { HoldingBuffer } from './leading-reasoning.ts';
import { addContent } from './openai-content.ts';
import { createOpenAIState, detailsText } from './openai-state.ts';
import { openAIUsage } from './openai-usage.ts';
import type { PartBuffer } from './parts.ts';
import type { AnswerDecoder } from './read-answer.ts';
import { createSseDecoder, type WireEvent } from './sse.ts';
import { hasError, upstreamDetail } from './status-error.ts';
import { createToolCalls, type ToolCallDelta } from './tool-calls.ts';

interface Delta {
  content?: unknown;
  reasoning_content?: unknown;
  reasoning?: unknown;
  reasoning_details?: unknown;
  refusal?: unknown;
  tool_calls?: unknown;
  extra_content?: unknown;
}

interface Choice {
  index?: unknown;
  delta?: Delta | null;
  /** In place of `delta` in an answer that is not streamed. */
  message?: Delta | null;
  finish_reason?: unknown;
  usage?: unknown;
}

interface Chunk {
  object?: string;
  error?: unknown;
  choices?: unknown;
  usage?: unknown;
  x_groq?: { usage?: unknown } | null;
}

const NO_CHOICES: readonly (Choice | null)[] = [];

const TEXT: TextPlace<Chunk> = {
  fields: ['content', 'reasoning_content', 'reasoning'],
  holder: ({ choices }) => (choices as Choice[])[0]?.delta,
};

export interface DecoderOptions {
  /** Separates reasoning that the provider sends inside the text. */
  readonly wrapParts?: ((parts: PartBuffer) => HoldingBuffer) | undefined;
}

/**
 * Creates a decoder for `chat.completion.chunk` events. Reads choice 0 only. Every field may be null. An error
 * may be a chunk, an `error` event, a finish reason, or a chunk without choices.
 */
export function createOpenAIChatDecoder(buffer: PartBuffer, { wrapParts }: DecoderOptions = {}): AnswerDecoder {
  const wrapped = wrapParts?.(buffer);
  const parts = wrapped ?? buffer;
  const toolCalls = createToolCalls(parts);
  const answerEnd = createAnswerEnd(parts);
  const sse = createSseDecoder(onEvent);
  const parse = createEventParser(TEXT);
  const state = createOpenAIState();
  let usage: Usage | undefined;
  /** True if reasoning came in a field of its own, which `reasoning_details` repeat. */
  let hasReasoningField = false;
  let hasDelta = false;
  /** Text that may be an error: see `isErrorFrame`. */
  let heldText = '';

  function onEvent(event: WireEvent): void {
    const data = event.data.trim();
    if (answerEnd.done || data === '') return;
    if (data === '[DONE]') {
      releaseHeldText();
      answerEnd.marker();
      return;
    }
    const chunk = parse(event, data);
    const choices = Array.isArray(chunk.choices) ? (chunk.choices as (Choice | null)[]) : NO_CHOICES;
    const chunkUsage = openAIUsage(chunk.usage) ?? openAIUsage(chunk.x_groq?.usage);
    if (event.event === 'error' || hasError(chunk, choices.length > 0 || chunkUsage !== undefined, event.isDocument)) {
      throw inBandError(upstreamDetail(chunk));
    }
    if (chunkUsage !== undefined) usage = mergeUsage(usage, chunkUsage);
    if (choices.length === 0 && chunkUsage !== undefined) answerEnd.usageOnly();
    for (const choice of choices) if (choice && Number(choice.index ?? 0) === 0) onChoice(choice);
  }

  function onChoice({ delta, message, finish_reason: reason, usage: choiceUsage }: Choice): void {
    if (choiceUsage !== undefined) usage = mergeUsage(usage, openAIUsage(choiceUsage));
    const word = finishWord(reason);
    if (word !== undefined && finishClass(word) === 'failure') heldText = '';
    releaseHeldText();
    // Some gateways answer a stream with one whole completion (WebAI-to-API#55).
    const content = hasFields(delta) ? delta : hasDelta ? undefined : message;
    if (content) {
      hasDelta ||= content === delta;
      onDelta(content);
    }
    if (word !== undefined) answerEnd.reason(word);
  }

  function onDelta({
    content,
    reasoning_content: reasoning,
    reasoning: otherReasoning,
    reasoning_details: details,
    refusal,
    tool_calls,
    extra_content: extra,
  }: Delta): void {
    let thought = isEmpty(reasoning) ? otherReasoning : reasoning;
    hasReasoningField ||= !isEmpty(thought);
    if (details !== undefined) {
      state.addDetails(details);
      if (!hasReasoningField) thought = detailsText(details);
    }
    if (extra !== undefined) state.addExtraContent(extra);
    if (!isEmpty(thought)) {
      answerEnd.content();
      addContent(parts, 'reasoning', thought);
    }
    if (!isEmpty(content)) {
      answerEnd.content();
      if (typeof content === 'string' && isErrorFrame(content)) heldText = content;
      else addContent(parts, 'text', content);
    }
    if (typeof refusal === 'string' && refusal !== '') {
      answerEnd.content();
      parts.text('refusal', refusal);
    }
    if (!Array.isArray(tool_calls) || tool_calls.length === 0) return;
    answerEnd.content();
    toolCalls.add(tool_calls as ToolCallDelta[]);
  }

  function releaseHeldText(): void {
    if (heldText !== '') parts.text('text', heldText);
    heldText = '';
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
      releaseHeldText();
      wrapped?.end();
      toolCalls.flush();
      const part = answerEnd.finish(usage, toolCalls.count > 0);
      const answerState = state.finish(toolCalls);
      return { ...part, ...(answerState && { state: answerState }) };
    },
  };
}

/**
 * Returns true for an SSE event that stands in the text: DashScope sends its throttling errors so, with the finish
 * reason `error_finish` behind it (hermes-agent#58017). If another chunk follows, it is text.
 */
function isErrorFrame(text: string): boolean {
  return text.includes('\n') && /^(id: ?\S*\n)?event: ?error\n/.test(text);
}

/** Returns true for an object that is not empty. Makes no list of its keys, because it runs for every token. */
function hasFields(value: object | null | undefined): boolean {
  for (const _ in value) return true;
  return false;
}

function isEmpty(value: unknown): boolean {
  return value === undefined || value === null || value === '';
}
