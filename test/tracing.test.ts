import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { bellaAt, until } from './helper.ts';
import { runServer } from './process.ts';
import { open, readAll } from './sse-client.ts';
import { completeAnswer, DONE, type Script, STOP, startUpstream, unfinishedAnswer } from './upstream.ts';

/** Spans as a collector gets them: a real one over HTTP, and the service as a process. */

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

type Value = { stringValue?: string; intValue?: number; doubleValue?: number; arrayValue?: { values: Value[] } };

const plain = (value: Value): unknown =>
  value.stringValue ?? value.intValue ?? value.doubleValue ?? value.arrayValue?.values.map(plain);

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
      services.push(attributes.filter(({ key }) => key === 'service.name').map(({ value }) => plain(value))[0]);
      for (const span of scopeSpans.flatMap((one: { spans: object[] }) => one.spans)) {
        const own = span.attributes as { key: string; value: Value }[];
        spans.push({
          ...span,
          attributes: Object.fromEntries(own.map(({ key, value }) => [key, plain(value)])),
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

async function setUp(t: Test, script: Script, env: Record<string, string> = {}) {
  const collector = await startCollector(t);
  const upstream = await startUpstream(t, script);
  const server = await runServer(
    t,
    bellaAt(upstream.url, {
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      OTEL_BSP_SCHEDULE_DELAY: '50',
      ...env,
    }),
  );
  return { collector, upstream, server };
}

const SERVER = 2;
const CLIENT = 3;
const PARENT = '4bf92f3577b34da6a3ce929d0e0e4736';

t.test('a question is one trace: the request, the call of the provider, the log', async (t) => {
  const usage = `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 7, completion_tokens: 2 } })}\n\n`;
  const { collector, upstream, server } = await setUp(t, ({ response }) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.end(
      `data: ${JSON.stringify({ choices: [{ delta: { content: 'secret words' } }] })}\n\n${STOP}${usage}${DONE}`,
    );
  });
  const traceparent = `00-${PARENT}-00f067aa0ba902b7-01`;
  const body = { question: 'what nobody may see', maxTokens: 50, temperature: 0.5 };
  await readAll(`${server.url}/ask/stream`, { body, headers: { traceparent } });
  await until(() => collector.spans.length === 2, 'two spans have come');
  const request = collector.spans.find(({ kind }) => kind === SERVER) as Span;
  const call = collector.spans.find(({ kind }) => kind === CLIENT) as Span;
  t.match(request, {
    name: 'POST /ask/stream',
    traceId: PARENT,
    parentSpanId: '00f067aa0ba902b7',
    attributes: { 'http.route': '/ask/stream', 'url.path': '/ask/stream', 'http.response.status_code': 200 },
  });
  t.match(call, {
    name: 'chat gpt-4o',
    traceId: PARENT,
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
    },
  });
  t.equal((await upstream.call(1)).request.headers.traceparent, `00-${PARENT}-${call.spanId}-01`, 'passed on');
  await until(() => server.lines.some(({ msg }) => msg === 'stream ended'), 'the stream has its line');
  t.match(
    server.lines.find(({ msg }) => msg === 'stream ended'),
    { trace_id: PARENT, span_id: request.spanId },
  );
  t.equal(collector.services[0], 'sluice');
  t.notMatch(collector.bodies.join(), /secret words|nobody may see/);
});

t.test('each attempt is a span; one that failed says why', async (t) => {
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
  await until(() => collector.spans.length === 3, 'three spans have come');
  const attempts = collector.spans.filter(({ kind }) => kind === CLIENT);
  t.same(
    attempts.map(({ attributes, status }) => [attributes['error.type'], status.code ?? 0]),
    [
      ['http_503', 2],
      [undefined, 0],
    ],
  );
  const request = collector.spans.find(({ kind }) => kind === SERVER) as Span;
  t.ok(attempts.every(({ parentSpanId }) => parentSpanId === request.spanId));
  t.equal(collector.services[0], 'answers');
});

t.test('a client that leaves, and a probe', async (t) => {
  const { collector, server } = await setUp(t, unfinishedAnswer('x'), { STREAM_GRACE_MS: '0' });
  await fetch(`${server.url}/livez`);
  const reading = await open(`${server.url}/ask/stream?question=q&model=bella/gpt-4o`);
  await reading.until('delta');
  reading.cut();
  await until(() => collector.spans.length === 2, 'two spans have come, none of the probe');
  const [call, request] = [CLIENT, SERVER].map((kind) => collector.spans.find((span) => span.kind === kind) as Span);
  t.match(request, { name: 'GET /ask/stream', events: ['client left'], attributes: { 'url.path': '/ask/stream' } });
  t.equal(call?.attributes['error.type'], 'aborted');
  t.equal(call?.status.code ?? 0, 0, 'which is no error of the provider');
});

t.test('without OTEL_* nothing is sent, and with OTEL_SDK_DISABLED neither', async (t) => {
  const { collector, upstream, server } = await setUp(t, completeAnswer('x'), { OTEL_SDK_DISABLED: 'true' });
  await readAll(`${server.url}/ask/stream?question=q`);
  t.equal((await upstream.call(1)).request.headers.traceparent, undefined);
  t.same(collector.bodies, []);
});

t.test('the last spans leave before the process does', async (t) => {
  const { collector, server } = await setUp(t, completeAnswer('x'), { OTEL_BSP_SCHEDULE_DELAY: '60000' });
  await readAll(`${server.url}/ask/stream?question=q`);
  server.child.kill('SIGTERM');
  t.equal(await server.exit, 0);
  t.equal(collector.spans.length, 2);
});
