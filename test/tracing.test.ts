import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { bellaAt, until } from './helper.ts';
import { runServer } from './process.ts';
import { open, readAll } from './sse-client.ts';
import { completeAnswer, DONE, type Script, STOP, startUpstream, unfinishedAnswer } from './upstream.ts';

/** Spans that the service, in its own process, exports to a collector over HTTP. */

interface Span {
  readonly name: string;
  readonly kind: number;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly status: { code?: number };
  readonly attributes: Record<string, unknown>;
  readonly events: string[];
}

/** An attribute value of OTLP. */
type Value = { stringValue?: string; intValue?: number; doubleValue?: number; arrayValue?: { values: Value[] } };

/** Returns the JavaScript value of an attribute. */
const plainValue = (value: Value): unknown =>
  value.stringValue ?? value.intValue ?? value.doubleValue ?? value.arrayValue?.values.map(plainValue);

/** Starts a collector that records the spans it receives. */
async function startCollector(t: Test) {
  const spans: Span[] = [];
  const services: unknown[] = [];
  const bodies: string[] = [];
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks).toString();
    bodies.push(body);
    for (const { resource, scopeSpans } of JSON.parse(body).resourceSpans) {
      const attributes = resource.attributes as { key: string; value: Value }[];
      services.push(attributes.filter(({ key }) => key === 'service.name').map(({ value }) => plainValue(value))[0]);
      for (const span of scopeSpans.flatMap((scope: { spans: object[] }) => scope.spans)) {
        const spanAttributes = span.attributes as { key: string; value: Value }[];
        spans.push({
          ...span,
          attributes: Object.fromEntries(spanAttributes.map(({ key, value }) => [key, plainValue(value)])),
          events: (span.events ?? []).map(({ name }: { name: string }) => name),
        });
      }
    }
    response.end('{}');
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { spans, services, bodies, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

const PRICES = JSON.stringify({ 'bella/gpt-4o': { input_cost_per_token: 2e-6, output_cost_per_token: 2.3e-5 } });

async function setUp(t: Test, script: Script, env: Record<string, string> = {}) {
  const collector = await startCollector(t);
  const upstream = await startUpstream(t, script);
  const server = await runServer(
    t,
    bellaAt(upstream.url, {
      PRICES_FILE: `${t.testdir({ 'prices.json': PRICES })}/prices.json`,
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      OTEL_BSP_SCHEDULE_DELAY: '50',
      ...env,
    }),
  );
  return { collector, upstream, server };
}

/** Kinds of spans. */
const SERVER = 2;
const CLIENT = 3;
const TRACE_ID = '4bf92f3577b34da6a3ce929d0e0e4736';

t.test('a request, its provider call and its log line share the trace of the caller', async (t) => {
  const usage = `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 7, completion_tokens: 2 } })}\n\n`;
  const { collector, upstream, server } = await setUp(t, ({ response }) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.end(
      `data: ${JSON.stringify({ choices: [{ delta: { content: 'secret words' } }] })}\n\n${STOP}${usage}${DONE}`,
    );
  });
  const traceparent = `00-${TRACE_ID}-00f067aa0ba902b7-01`;
  const body = { question: 'a secret question', maxTokens: 50, temperature: 0.5 };
  const ofCaller = { tracestate: 'tenant=acme', baggage: 'user.email=alice%40corp.example' };
  await readAll(`${server.url}/ask/stream`, { body, headers: { traceparent, ...ofCaller } });
  await until(() => collector.spans.length === 2, 'the collector has two spans');
  const request = collector.spans.find(({ kind }) => kind === SERVER) as Span;
  const call = collector.spans.find(({ kind }) => kind === CLIENT) as Span;
  t.match(
    request,
    {
      name: 'POST /ask/stream',
      traceId: TRACE_ID,
      parentSpanId: '00f067aa0ba902b7',
      attributes: { 'http.route': '/ask/stream', 'url.path': '/ask/stream', 'http.response.status_code': 200 },
    },
    'the span of the request',
  );
  t.match(
    call,
    {
      name: 'chat gpt-4o',
      traceId: TRACE_ID,
      parentSpanId: request.spanId,
      events: ['gen_ai.first_token'],
      attributes: {
        'gen_ai.operation.name': 'chat',
        'gen_ai.provider.name': 'bella',
        'gen_ai.request.model': 'gpt-4o',
        'gen_ai.request.max_tokens': 50,
        'gen_ai.request.temperature': 0.5,
        'gen_ai.response.finish_reasons': ['stop'],
        'gen_ai.usage.input_tokens': 7,
        'gen_ai.usage.output_tokens': 2,
        'gen_ai.usage.cost': 0.00006,
      },
    },
    'the span of the provider call',
  );
  t.equal(
    (await upstream.call(1)).request.headers.traceparent,
    `00-${TRACE_ID}-${call.spanId}-01`,
    'the provider call carries the trace',
  );
  const { tracestate, baggage } = (await upstream.call(1)).request.headers;
  t.same([tracestate, baggage], [undefined, undefined], 'and nothing else of the caller');
  await until(() => server.lines.some(({ msg }) => msg === 'stream ended'), 'the stream is logged');
  t.match(
    server.lines.find(({ msg }) => msg === 'stream ended'),
    { trace_id: TRACE_ID, span_id: request.spanId },
    'the log line has the ids of the trace',
  );
  t.equal(collector.services[0], 'sluice', 'the default service name');
  t.notMatch(collector.bodies.join(), /secret words|secret question/, 'spans have no text of question or answer');
});

t.test('each attempt has a span, and a failed one has its error type', async (t) => {
  let calls = 0;
  const { collector, server } = await setUp(
    t,
    (call) => {
      calls += 1;
      if (calls === 1) call.response.writeHead(503).end();
      else completeAnswer('x')(call);
    },
    { OTEL_SERVICE_NAME: 'answers' },
  );
  await readAll(`${server.url}/ask/stream?question=q`);
  await until(() => collector.spans.length === 3, 'the collector has three spans');
  const attempts = collector.spans.filter(({ kind }) => kind === CLIENT);
  t.same(
    attempts.map(({ attributes, status }) => [attributes['error.type'], status.code ?? 0]),
    [
      ['http_503', 2],
      [undefined, 0],
    ],
    'only the failed attempt has an error',
  );
  const request = collector.spans.find(({ kind }) => kind === SERVER) as Span;
  t.ok(
    attempts.every(({ parentSpanId }) => parentSpanId === request.spanId),
    'the request is the parent of every attempt',
  );
  t.equal(collector.services[0], 'answers', 'OTEL_SERVICE_NAME sets the service name');
});

t.test('a client disconnect is an event of its request and no error; probes have no span', async (t) => {
  const { collector, server } = await setUp(t, unfinishedAnswer('x'), { STREAM_GRACE_MS: '0' });
  await fetch(`${server.url}/livez`);
  const reading = await open(`${server.url}/ask/stream?question=q&model=bella/gpt-4o`);
  await reading.until('delta');
  reading.cut();
  await until(() => collector.spans.length === 2, 'the collector has two spans');
  const [call, request] = [CLIENT, SERVER].map((kind) => collector.spans.find((span) => span.kind === kind) as Span);
  const expected = {
    name: 'GET /ask/stream',
    events: ['client disconnected'],
    attributes: { 'url.path': '/ask/stream' },
  };
  t.match(request, expected, 'the span of the request has the event');
  t.equal(call?.attributes['error.type'], 'aborted', 'the call is aborted');
  t.equal(call?.status.code ?? 0, 0, 'an aborted call has no error status');
});

t.test('OTEL_SDK_DISABLED disables tracing', async (t) => {
  const { collector, upstream, server } = await setUp(t, completeAnswer('x'), { OTEL_SDK_DISABLED: 'true' });
  await readAll(`${server.url}/ask/stream?question=q`);
  t.equal((await upstream.call(1)).request.headers.traceparent, undefined, 'the provider call carries no trace');
  server.child.kill('SIGTERM');
  await server.exit; // A service that traces exports its pending spans before it exits.
  t.same(collector.bodies, [], 'nothing is exported');
});

t.test('pending spans are exported before the process exits', async (t) => {
  const { collector, server } = await setUp(t, completeAnswer('x'), { OTEL_BSP_SCHEDULE_DELAY: '60000' });
  await readAll(`${server.url}/ask/stream?question=q`);
  server.child.kill('SIGTERM');
  t.equal(await server.exit, 0, 'exit code');
  t.equal(collector.spans.length, 2, 'both spans are exported');
});

t.test('exports that fail are logged once, without the address, and then their recovery', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const collector = createServer((request, response) => request.resume().on('end', () => response.end('{}')));
  collector.listen(0, '127.0.0.1');
  await once(collector, 'listening');
  const { port } = collector.address() as AddressInfo;
  await new Promise((resolve) => collector.close(resolve));
  const run = (endpoint: string) =>
    runServer(
      t,
      bellaAt(upstream.url, {
        OTEL_EXPORTER_OTLP_ENDPOINT: endpoint,
        OTEL_EXPORTER_OTLP_TIMEOUT: '100',
        OTEL_BSP_SCHEDULE_DELAY: '20',
      }),
    );
  const [refused, withoutScheme] = await Promise.all([
    run(`http://user:SECRET@127.0.0.1:${port}`),
    run(`localhost:${port}`),
  ]);
  const linesOf = (server: typeof refused, text: string) =>
    server.lines.filter(({ msg }) => String(msg).startsWith(text));
  for (const server of [refused, withoutScheme]) {
    const ask = () => readAll(`${server.url}/ask/stream?question=q`);
    await ask();
    await until(() => linesOf(server, 'traces cannot be exported').length > 0, 'the failure is logged');
    await ask();
    t.notMatch(JSON.stringify(server.lines), /SECRET/);
  }
  t.match(linesOf(refused, 'traces cannot be exported')[0], { level: 50, reason: 'ECONNREFUSED' });
  collector.listen(port, '127.0.0.1');
  t.teardown(() => {
    collector.closeAllConnections();
    collector.close();
  });
  await until(async () => {
    await readAll(`${refused.url}/ask/stream?question=again`);
    return linesOf(refused, 'traces are exported again').length > 0;
  }, 'the recovery is logged');
  t.equal(linesOf(refused, 'traces cannot be exported').length, 1);
  t.equal(linesOf(withoutScheme, 'traces cannot be exported').length, 1);
});
