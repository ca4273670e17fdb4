import {
  type Attributes,
  context,
  propagation,
  type Span,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import { OverloadedError, ProviderError } from '../../providers/errors.ts';
import type { ChatRequest, FinishPart } from '../../providers/types.ts';
import type { Config } from '../config/index.ts';

/** Span of one provider call, by the OpenTelemetry conventions for generative AI. */
export interface AttemptSpan {
  /** Headers that carry the trace to the provider; undefined without tracing. */
  readonly headers: Readonly<Record<string, string>> | undefined;
  firstToken(): void;
  /** Ends the span, with the finish part of a successful call or the fault of a failed one. */
  end(finish: FinishPart | undefined, fault?: unknown): void;
}

/** `gen_ai.provider.name` for provider types that the conventions call differently. */
const PROVIDER_NAMES: Readonly<Record<string, string>> = {
  azure: 'azure.ai.openai',
  gemini: 'gcp.gemini',
  vertex: 'gcp.vertex_ai',
  bedrock: 'aws.bedrock',
  mistral: 'mistral_ai',
  xai: 'x_ai',
};

/** Creates spans. They never hold questions or answers. */
export function createAttemptSpans(tracer: Tracer, providers: Config['providers']) {
  return (provider: string, request: ChatRequest): AttemptSpan => {
    const type = providers[provider]?.type ?? provider;
    const attributes = {
      'gen_ai.provider.name': PROVIDER_NAMES[type] ?? type,
      'sluice.provider': provider,
      ...requestAttributes(request),
    };
    const span = tracer.startSpan(`chat ${request.model}`, { kind: SpanKind.CLIENT, attributes });
    const carrier: Record<string, string> = {};
    propagation.inject(trace.setSpan(context.active(), span), carrier);
    // The caller's `baggage` and `tracestate` may name users and tenants, so they stay here.
    const { traceparent } = carrier;
    return {
      headers: traceparent === undefined ? {} : { traceparent },
      firstToken: () => void span.addEvent('gen_ai.first_token'),
      end(finish, fault) {
        if (finish !== undefined) span.setAttributes(responseAttributes(finish));
        else setError(span, fault);
        span.end();
      },
    };
  };
}

function requestAttributes({ model, maxTokens, temperature, topP, stop }: ChatRequest): Attributes {
  return {
    'gen_ai.operation.name': 'chat',
    'gen_ai.request.model': model,
    ...(maxTokens !== undefined && { 'gen_ai.request.max_tokens': maxTokens }),
    ...(temperature !== undefined && { 'gen_ai.request.temperature': temperature }),
    ...(topP !== undefined && { 'gen_ai.request.top_p': topP }),
    ...(stop !== undefined && { 'gen_ai.request.stop_sequences': [...stop] }),
  };
}

function responseAttributes({ reason, usage }: FinishPart): Attributes {
  const { inputTokens, outputTokens, cost } = usage ?? {};
  return {
    'gen_ai.response.finish_reasons': [reason],
    ...(inputTokens !== undefined && { 'gen_ai.usage.input_tokens': inputTokens }),
    ...(outputTokens !== undefined && { 'gen_ai.usage.output_tokens': outputTokens }),
    // Not in the conventions, but in the products that read them.
    ...(cost !== undefined && { 'gen_ai.usage.cost': cost }),
  };
}

function setError(span: Span, fault: unknown): void {
  const hasReason = fault instanceof ProviderError || fault instanceof OverloadedError;
  const type = hasReason ? fault.reason : 'aborted';
  span.setAttribute('error.type', type);
  // An aborted call is not a failure of the provider.
  if (fault instanceof ProviderError) span.setStatus({ code: SpanStatusCode.ERROR, message: fault.code });
}
