import { context, propagation, type Tracer, trace } from '@opentelemetry/api';

export interface Sdk {
  readonly tracer: Tracer;
  /** Sends what waits, at most for some seconds. */
  stop(): Promise<void>;
}

/** How long the last spans may take to leave. */
const FLUSH_MS = 3_000;

/**
 * Sends spans by OTLP over HTTP. The SDK itself reads the standard variables: `OTEL_EXPORTER_OTLP_*`
 * (where to, headers, time-outs), `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
 * `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`, `OTEL_PROPAGATORS`.
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
      const late = new Promise<void>((resolve) => setTimeout(resolve, FLUSH_MS).unref());
      await Promise.race([provider.shutdown().catch(() => {}), late]);
      context.disable();
      propagation.disable();
      trace.disable();
    },
  };
}
