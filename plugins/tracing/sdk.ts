import { context, propagation, type Tracer, trace } from '@opentelemetry/api';
import type { SpanExporter } from '@opentelemetry/sdk-trace-node';
import { systemClock, waitAtMost } from '../clock.ts';

export interface Sdk {
  readonly tracer: Tracer;
  /** Flushes pending spans for at most three seconds, then stops. */
  stop(): Promise<void>;
}

/** Called when exports begin to fail and when they work again, and not for each export. */
export interface ExportEvents {
  /** @param reason code of the system or HTTP status; contains no address */
  onFailing(reason: string): void;
  onRecovered(): void;
}

/** Longest wait for the last spans. */
const FLUSH_MS = 3_000;

/**
 * Exports spans by OTLP over HTTP. The SDK reads these standard variables itself: `OTEL_EXPORTER_OTLP_*`
 * (address, headers, timeouts), `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`
 * and `OTEL_BSP_*`. It ignores `OTEL_PROPAGATORS`: the trace context of callers is always used.
 */
export async function startSdk(events: ExportEvents): Promise<Sdk> {
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
    spanProcessors: [new BatchSpanProcessor(watchExports(new OTLPTraceExporter(), events))],
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

/** Calls `events` when the results of an exporter change. The SDK drops the spans of a failed export silently. */
export function watchExports(exporter: SpanExporter, events: ExportEvents): SpanExporter {
  let isFailing = false;
  return {
    export(spans, onResult) {
      exporter.export(spans, (result) => {
        const hasFailed = result.code !== 0;
        if (hasFailed && !isFailing) events.onFailing(reasonOf(result.error));
        if (!hasFailed && isFailing) events.onRecovered();
        isFailing = hasFailed;
        onResult(result);
      });
    },
    shutdown: () => exporter.shutdown(),
    forceFlush: async () => exporter.forceFlush?.(),
  };
}

/** Returns the code of an error or of its cause, else its name. A message may contain the address. */
function reasonOf(error: unknown): string {
  const { code, name, cause } = (error ?? {}) as { code?: unknown; name?: unknown; cause?: { code?: unknown } };
  return String(code ?? cause?.code ?? name ?? 'unknown');
}
