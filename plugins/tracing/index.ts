import type { Tracer } from '@opentelemetry/api';
import fp from 'fastify-plugin';
import type { ChatRequest } from '../../providers/types.ts';
import type { Config } from '../config/index.ts';
import type { AttemptSpan } from './attempt.ts';
import { NO_SPAN } from './no-span.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly tracing: Tracing;
  }
}

export type { AttemptSpan };

export interface Tracing {
  /** Starts the span of one provider call, as a child of the span of the request. */
  attempt(provider: string, request: ChatRequest): AttemptSpan;
}

export interface TracingOptions {
  /** True if spans are exported. Otherwise nothing of OpenTelemetry is loaded. */
  readonly enabled: boolean;
  /** The configured providers: spans name their types. */
  readonly providers: Config['providers'];
}

/** Adds `fastify.tracing`: OpenTelemetry spans of requests and provider calls, exported by OTLP. */
export default fp<TracingOptions>(
  async (fastify, { enabled, providers }) => {
    if (!enabled) {
      fastify.decorate('tracing', { attempt: () => NO_SPAN });
      return;
    }
    const [{ startSdk }, { traceRequests }, { createAttemptSpans }] = await Promise.all([
      import('./sdk.ts'),
      import('./requests.ts'),
      import('./attempt.ts'),
    ]);
    const sdk = await startSdk({
      onFailing: (reason) =>
        fastify.log.error(
          { reason },
          'traces cannot be exported; spans are dropped. Check OTEL_EXPORTER_OTLP_ENDPOINT',
        ),
      onRecovered: () => fastify.log.info('traces are exported again'),
    });
    const tracer: Tracer = sdk.tracer;
    traceRequests(fastify, tracer);
    fastify.decorate('tracing', { attempt: createAttemptSpans(tracer, providers) });
    fastify.addHook('onClose', () => sdk.stop());
  },
  { name: 'tracing' },
);
