import { context, propagation, type Tracer, trace } from '@opentelemetry/api';
import { systemClock, waitAtMost } from '../clock.ts';

export interface Sdk {
  readonly tracer: Tracer;
  /** Flushes pending spans for at most three seconds, then stops. */
  stop(): Promise<void>;
}

/** Longest wait for the last spans. */
const FLUSH_MS = 3_000;

/**
 * Exports spans by OTLP over HTTP. The SDK reads these standard variables itself: `OTEL_EXPORTER_OTLP_*`
 * (address, headers, timeouts), `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`
 * and `OTEL_BSP_*`. It ignores `OTEL_PROPAGATORS`: trace context and baggage are always propagated.
 */
export async function startSdk(): Promise<Sdk> {
  const [{ BatchSpanProcessor, NodeTracerProvider }, { OTLPTraceExporter }, resources] = await Promise.all([
    import('@opentelemetry/sdk-trace-node'),
    import('@opentelemetry/exporter-trace-otlp-http'),
    import('@opentelemetry/resources'),
  ]);
  const { defaultResource, detectResources, envDetector, resourceFromAttributes } = resources;
  const resource = defaultResource()
    .merge(resourceFromAttributes({ 'service.name': 'sluice' }))
    .merge(detectResources({ detectors: [envDetector] }));
  const provider = new NodeTracerProvider({
    resource,
    spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())],
  });
  provider.register();
  return {
    tracer: provider.getTracer('sluice'),
    async stop() {
      await waitAtMost(
        systemClock,
        FLUSH_MS,
        provider.shutdown().catch(() => {}),
      );
      context.disable();
      propagation.disable();
      trace.disable();
    },
  };
}
