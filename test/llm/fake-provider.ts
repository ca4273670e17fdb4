import { ProviderError, type ProviderErrorCode, type ProviderErrorInit } from '../../providers/errors.ts';
import type { ChatRequest, Provider, StreamPart } from '../../providers/types.ts';

/** Providers that play a script, and the parts and errors of these scripts. */

export const fault = (code: ProviderErrorCode, init: Partial<ProviderErrorInit> = {}) =>
  new ProviderError(code, { reason: 'r', retryable: true, ...init });
export const SERVER_ERROR = fault('upstream_failed');
/** A 404 of the provider: the next target is asked, and the retry budget is not used. */
export const NOT_FOUND = fault('upstream_rejected', { retryable: false, upstreamStatus: 404 });

export const textPart = (text: string): StreamPart => ({ type: 'text', text });
export const TOOL_CALL: StreamPart = { type: 'tool_call', index: 0, name: 'f', arguments: '{}' };
export const FINISH: StreamPart = { type: 'finish', reason: 'stop' };
export const ANSWER = [textPart('whole'), FINISH];

/** The script of one call: parts, then an error, or silence until the call is aborted. */
export type CallScript = readonly (StreamPart | Error | 'silence')[];

export interface FakeProvider extends Provider {
  readonly requests: ChatRequest[];
}

/** A provider that plays one script for each call, and repeats the last one. */
export function fake(name: string, calls: readonly CallScript[], supportsContinuation = true): FakeProvider {
  const requests: ChatRequest[] = [];
  return {
    name,
    supportsContinuation,
    requests,
    async *stream(request, signal) {
      const steps = calls[requests.length] ?? calls.at(-1) ?? [];
      requests.push(request);
      for (const step of steps) {
        if (step instanceof Error) throw step;
        if (step !== 'silence') yield step;
        else await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
      }
    },
    async close() {},
  };
}
