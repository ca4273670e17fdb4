import type { Tracer } from '@opentelemetry/api';
import fp from 'fastify-plugin';
import type { ChatRequest } from '../../providers/types.ts';
import { type AttemptSpan, createAttemptSpans, NO_SPAN } from './attempt.ts';
import { traceRequests } from './requests.ts';
import { startSdk } from './sdk.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly tracing: Tracing;
  }
}

export type { AttemptSpan };

export interface Tracing {
  /** One call of a provider, as a child of the request that asks. */
  attempt(provider: string, request: ChatRequest): AttemptSpan;
}

/**
 * `fastify.tracing`: spans by OpenTelemetry, where an `OTEL_EXPORTER_OTLP_*` variable says where they
 * go. Without, the SDK is not even loaded.
 */
export default fp(
  async (fastify) => {
    const { config } = fastify;
    if (!config.tracing) {
      fastify.decorate('tracing', { attempt: () => NO_SPAN });
      return;
    }
    const sdk = await startSdk();
    const tracer: Tracer = sdk.tracer;
    traceRequests(fastify, tracer);
    fastify.decorate('tracing', { attempt: createAttemptSpans(tracer, config.providers) });
    fastify.addHook('onClose', () => sdk.stop());
  },
  { name: 'tracing', dependencies: ['config'] },
);
