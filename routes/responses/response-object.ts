import type { Terminal } from '../../plugins/streams/api.ts';
import { responseIdOf } from './ids.ts';
import type { OutputItem } from './items.ts';

/** Makes the `response` object of events and bodies. */

export type ResponseStatus = 'queued' | 'in_progress' | 'completed' | 'incomplete' | 'failed' | 'cancelled';

/** Fields of the request that a response repeats: see `echo.ts`. */
export type Echo = Readonly<Record<string, unknown>>;

/** The part that all forms of one response have in common. */
export interface ResponseHead {
  readonly stream: string;
  /** Public name of the model. */
  readonly model: string;
  /** Unix time in seconds. */
  readonly createdAt: number;
  readonly echo: Echo;
}

/** Returns a response that has not ended. Its output is empty, as that of OpenAI. */
export function pendingResponse(head: ResponseHead, status: 'queued' | 'in_progress'): object {
  return build(head, status, {});
}

/** @param completedAt Unix time in seconds, where it is known */
export function endedResponse(
  head: ResponseHead,
  terminal: Terminal,
  output: readonly OutputItem[],
  completedAt?: number,
): object {
  const status = statusOf(terminal);
  const times = status === 'completed' && completedAt !== undefined ? { completed_at: completedAt } : {};
  if (terminal.type === 'error') return build(head, status, { ...times, output, error: errorOf(terminal) });
  const reason = INCOMPLETE_REASONS[terminal.finishReason];
  const details = status === 'incomplete' ? { incomplete_details: { reason } } : {};
  return build(head, status, { ...times, ...details, output, usage: usageOf(terminal) });
}

/** Returns the status of an answer that has ended. Only `completed` is a success. */
export function statusOf(terminal: Terminal): ResponseStatus {
  if (terminal.type === 'error') return 'failed';
  const { finishReason } = terminal;
  if (finishReason === 'stopped') return 'cancelled';
  return finishReason === 'stop' || finishReason === 'tool_calls' ? 'completed' : 'incomplete';
}

/** `other` stands for a reason that Sluice does not know: OpenAI has no word for it, and `completed` would claim a success. */
const INCOMPLETE_REASONS: Readonly<Record<string, string>> = {
  length: 'max_output_tokens',
  content_filter: 'content_filter',
  other: 'other',
};

/** Returns the error of a failed response. The reason of a refusal is the code, because clients look for OpenAI's codes. */
export function errorOf({ code, message, reason }: Extract<Terminal, { type: 'error' }>): object {
  const openAICode = code === 'upstream_rate_limited' ? 'rate_limit_exceeded' : code;
  return { code: reason ?? openAICode, message };
}

function build({ stream, model, createdAt, echo }: ResponseHead, status: ResponseStatus, fields: object): object {
  return {
    id: responseIdOf(stream),
    object: 'response',
    created_at: createdAt,
    status,
    error: null,
    incomplete_details: null,
    model,
    output: [],
    usage: null,
    ...echo,
    ...fields,
  };
}

function usageOf({ usage }: Extract<Terminal, { type: 'end' }>): object | null {
  if (usage === undefined) return null;
  const { inputTokens = 0, outputTokens = 0, totalTokens = inputTokens + outputTokens } = usage;
  const { cachedTokens = 0, cacheWriteTokens = 0, reasoningTokens = 0, cost } = usage;
  return {
    input_tokens: inputTokens,
    input_tokens_details: { cached_tokens: cachedTokens, cache_write_tokens: cacheWriteTokens },
    output_tokens: outputTokens,
    output_tokens_details: { reasoning_tokens: reasoningTokens },
    total_tokens: totalTokens,
    ...(cost !== undefined && { cost }),
  };
}
