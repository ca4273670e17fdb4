import { type Context, context, propagation, SpanKind, SpanStatusCode, type Tracer, trace } from '@opentelemetry/api';
import type { FastifyInstance, FastifyRequest } from 'fastify';

/**
 * Starts a server span for each request except probes, as a child of the caller's `traceparent`. It ends
 * when the response closes. Log lines of the request and of its stream carry the ids of the span.
 */
export function traceRequests(fastify: Pick<FastifyInstance, 'addHook'>, tracer: Tracer): void {
  const contexts = new WeakMap<FastifyRequest, Context>();

  fastify.addHook('onRequest', (request, reply, done) => {
    const { method, headers, routeOptions } = request;
    if (routeOptions.logLevel === 'silent') return done();
    const parent = propagation.extract(context.active(), headers);
    const route = routeOptions.url;
    const attributes = {
      'http.request.method': method,
      'url.scheme': request.protocol,
      // Without the query: it may hold a question or a ticket.
      'url.path': request.url.split('?', 1)[0] as string,
      ...(route !== undefined && { 'http.route': route }),
    };
    const name = route === undefined ? method : `${method} ${route}`;
    const span = tracer.startSpan(name, { kind: SpanKind.SERVER, attributes }, parent);
    const { traceId, spanId } = span.spanContext();
    request.log = request.log.child({ trace_id: traceId, span_id: spanId });
    reply.log = request.log;
    reply.raw.once('close', () => {
      const { statusCode, writableFinished } = reply.raw;
      span.setAttribute('http.response.status_code', statusCode);
      if (statusCode >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
      if (!writableFinished) span.addEvent('client disconnected');
      span.end();
    });
    const own = trace.setSpan(parent, span);
    contexts.set(request, own);
    context.with(own, done);
  });

  // The body is read in the context of the socket, so the context is set again.
  fastify.addHook('preValidation', (request, _, done) => {
    context.with(contexts.get(request) ?? context.active(), done);
  });
}
