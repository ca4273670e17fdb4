import type { IdFirstEvent } from '../../plugins/sse/api.ts';
import type { Terminal } from '../../plugins/streams/api.ts';
import type { RunNames } from './run-names.ts';

/** The events with which a run begins and ends. */

export type AguiEvent = { readonly type: string; readonly [field: string]: unknown };

/** Names and ids that the events of a run repeat. */
export interface RunContext {
  readonly stream: { readonly id: string; readonly model: string };
  readonly run: RunNames;
}

/** Returns the first event of a run. @param urls read and stop the stream */
export function startedEvent(
  { stream, run }: RunContext,
  urls: { readonly url: string; readonly stopUrl: string },
): IdFirstEvent {
  const { id, model } = stream;
  const metadata = { sluice: { stream: id, model, ...urls } };
  const event = { type: 'RUN_STARTED', ...run, protocolVersion: '1.0', metadata };
  return { idFirst: true, id: `${id}.0`, data: JSON.stringify(event) };
}

/** Ends a run with a tool call that was cut off. Such a call must not run. */
export const INCOMPLETE_CALL: AguiEvent = {
  type: 'RUN_ERROR',
  code: 'incomplete_tool_call',
  message: 'The arguments of a tool call are not complete.',
  metadata: { sluice: { retryable: false } },
};

/** Returns the event of a run that failed. */
export function errorEvent(error: Extract<Terminal, { type: 'error' }>): AguiEvent {
  const { code, message, retryable, retryAfterMs, reason, stage } = error;
  const retryAfter = retryAfterMs === undefined ? undefined : Math.ceil(retryAfterMs / 1000);
  return { type: 'RUN_ERROR', code, message, metadata: { sluice: { retryable, retryAfter, reason, stage } } };
}

/** Returns the last event of a run that has not failed. */
export function finishedEvent(
  { finishReason, usage, targets }: Extract<Terminal, { type: 'end' }>,
  { stream, run }: RunContext,
): AguiEvent {
  const { model } = stream;
  const { inputTokens, outputTokens, totalTokens, reasoningTokens, cachedTokens, cacheWriteTokens } = usage ?? {};
  const counts = {
    ...{ inputTokens, outputTokens, totalTokens, reasoningTokens },
    ...{ cachedInputTokens: cachedTokens, cacheWriteInputTokens: cacheWriteTokens },
  };
  return {
    type: 'RUN_FINISHED',
    ...run,
    result: { model, finishReason, usage, targets },
    ...(finishReason === 'stopped' && { outcome: { type: 'cancelled' } }),
    ...(usage && { usage: [{ model, ...counts }] }),
  };
}
