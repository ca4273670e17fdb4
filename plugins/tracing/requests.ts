import { type Context, context, propagation, SpanKind, SpanStatusCode, type Tracer, trace } from '@opentelemetry/api';
import type { FastifyInstance, FastifyRequest } from 'fastify';

/**
 * A server span for each request but probes, from its head to the close of its response, below the
 * caller's `traceparent`. Its ids stand in every log line of the request, and of the stream that it starts.
 */
export function traceRequests(fastify: FastifyInstance, tracer: Tracer): void {
  const contexts = new WeakMap<FastifyRequest, Context>();

  fastify.addHook('onRequest', (request, reply, done) => {
    const { method, headers, routeOptions } = request;
    if (routeOptions.logLevel === 'silent') return done();
    const parent = propagation.extract(context.active(), headers);
    const route = routeOptions.url;
    const attributes = {
      'http.request.method': method,
      'url.scheme': request.protocol,
      // Without the query, which may hold a question or a ticket.
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
      if (!writableFinished) span.addEvent('client left');
      span.end();
    });
    const own = trace.setSpan(parent, span);
    contexts.set(request, own);
    context.with(own, done);
  });

  // A body comes in the context of its socket.
  fastify.addHook('preValidation', (request, _, done) => {
    context.with(contexts.get(request) ?? context.active(), done);
  });
}
