import type { AttemptSpan } from './attempt.ts';

/** Span of a provider call without tracing. A file of its own, so that OpenTelemetry is not loaded for it. */
export const NO_SPAN: AttemptSpan = { headers: undefined, firstToken() {}, end() {} };
