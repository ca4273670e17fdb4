import { createServer, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from 'node:net';
import type { FastifyInstance } from 'fastify';
import type { Test } from 'tap';
import { serve, writeConfig } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { postJson } from '../post-json.ts';
import { readAll } from '../sse-client.ts';

/** Plays the bytes of an upstream to the service, and reads the answer over every API that gives text. */

export interface UpstreamCase {
  readonly name: string;
  /** Type of the provider; `openai-compatible` if absent. */
  readonly provider?: string;
  readonly contentType?: string;
  readonly status?: number;
  /** Pieces of the body. The response ends after the last one. */
  readonly body?: readonly (string | Buffer)[];
  /** Replaces `body`: answers a call itself. `n` counts the calls from 1. */
  reply?(response: ServerResponse, n: number, authorization: string | undefined): void;
  /** Replaces `body`: answers on the socket. `n` counts the requests of this socket from 1. */
  socket?(socket: Socket, n: number): void;
  readonly apiKeys?: readonly string[];
  readonly expected: Expected;
}

export interface Expected {
  readonly text?: string;
  readonly reasoning?: string;
  readonly calls?: readonly { name: string; arguments: string }[];
  /** Finish reason of a success. */
  readonly finish?: string;
  /** Code of a failure. */
  readonly error?: string;
  readonly retryable?: boolean;
  /** Input and output tokens. */
  readonly usage?: readonly [number, number];
  /** Upstream calls of one question; 1 if absent. */
  readonly asked?: number;
  /** Kinds of `sluice_parse_anomalies_total`. */
  readonly anomalies?: readonly string[];
}

export interface Playing {
  readonly app: FastifyInstance;
  readonly url: string;
  /** Number of upstream calls. */
  readonly calls: () => number;
  /** Name of the provider. */
  readonly name: string;
}

const MEDIA_TYPES: Readonly<Record<string, string>> = { ollama: 'application/x-ndjson' };

type Upstream = Omit<UpstreamCase, 'name' | 'expected'>;

/** Starts the upstream of a case. */
async function startUpstream(t: Test, upstream: Upstream): Promise<{ origin: string; calls(): number }> {
  const { provider = 'openai-compatible', contentType, status = 200, body = [], reply, socket } = upstream;
  let calls = 0;
  const server: Server = socket
    ? createTcpServer((connection) => {
        let requests = 0;
        connection
          .on('error', () => {})
          .on('data', (bytes) => {
            if (!bytes.toString('latin1').startsWith('POST ')) return;
            calls += 1;
            socket(connection, ++requests);
          });
      })
    : createServer(async (request, response) => {
        request.resume();
        calls += 1;
        if (reply) return reply(response, calls, request.headers.authorization);
        response.writeHead(status, { 'content-type': contentType ?? MEDIA_TYPES[provider] ?? 'text/event-stream' });
        for (const piece of body) {
          response.write(piece);
          await new Promise((resolve) => setImmediate(resolve));
        }
        response.end();
      });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    (server as { closeAllConnections?(): void }).closeAllConnections?.();
    server.close();
  });
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, calls: () => calls };
}

function providerYaml(name: string, { provider = 'openai-compatible', apiKeys = ['k'] }: Upstream, origin: string) {
  const baseUrl = `${origin}${provider === 'azure' ? '' : '/v1'}`;
  return `  ${name}: { type: ${provider}, baseUrl: "${baseUrl}", apiKeys: ${JSON.stringify(apiKeys)}, models: [m, n] }\n`;
}

/** Starts the upstream of a case, and a service whose only provider `p`, with the models `m` and `n`, asks it. */
export async function play(t: Test, upstream: Upstream, more = ''): Promise<Playing> {
  const [playing] = await playTogether(t, [upstream], more);
  return playing as Playing;
}

/** Starts several upstreams, and one service that asks them. The providers are `p`, `p1`, `p2` … */
export async function playTogether(t: Test, upstreams: readonly Upstream[], more = ''): Promise<Playing[]> {
  const started = await Promise.all(upstreams.map((upstream) => startUpstream(t, upstream)));
  const names = upstreams.map((_, i) => (i === 0 ? 'p' : `p${i}`));
  const providers = upstreams.map((upstream, i) => providerYaml(names[i] ?? '', upstream, started[i]?.origin ?? ''));
  const env = { CONFIG_FILE: writeConfig(t, `providers:\n${providers.join('')}${more}`) };
  const { app, url } = await serve(t, { env });
  return started.map(({ calls }, i) => ({ app, url, calls, name: names[i] ?? '' }));
}

/** The answer as one API gave it. */
export interface Outcome {
  text: string;
  reasoning: string;
  calls: { name: string; arguments: string }[];
  finish: string | undefined;
  error: string | undefined;
  retryable: boolean | undefined;
  usage: [number, number] | undefined;
}

const empty = (): Outcome => ({
  text: '',
  reasoning: '',
  calls: [],
  finish: undefined,
  error: undefined,
  retryable: undefined,
  usage: undefined,
});

function addCall(outcome: Outcome, index: number, name: string | undefined, args: string | undefined): void {
  outcome.calls[index] ??= { name: '', arguments: '' };
  const call = outcome.calls[index] as Outcome['calls'][number];
  call.name += name ?? '';
  call.arguments += args ?? '';
}

export async function ask(url: string, model = 'p/m'): Promise<Outcome> {
  const outcome = empty();
  const { events } = await readAll(`${url}/ask/stream?question=q&model=${model}`);
  for (const { json } of events) {
    if (json.type === 'delta') outcome.text += json.content;
    else if (json.type === 'reasoning') outcome.reasoning += json.content;
    else if (json.type === 'tool_call') addCall(outcome, json.index, json.name, json.arguments);
    else if (json.type === 'end') {
      outcome.finish = json.finishReason;
      if (json.usage) outcome.usage = [json.usage.inputTokens, json.usage.outputTokens];
    } else if (json.type === 'error') Object.assign(outcome, { error: json.code, retryable: json.retryable });
  }
  return outcome;
}

const QUESTION = { messages: [{ role: 'user', content: 'q' }] };

export async function completionStream(url: string, model = 'p/m'): Promise<Outcome> {
  const outcome = empty();
  const body = { model, ...QUESTION, stream: true, stream_options: { include_usage: true } };
  const { events, response } = await readAll(`${url}/v1/chat/completions`, { body });
  if (response.statusCode !== 200) return { ...outcome, error: 'status' };
  for (const { json } of events) {
    if (json?.error) outcome.error = json.error.code;
    const choice = json?.choices?.[0];
    outcome.text += choice?.delta.content ?? '';
    outcome.reasoning += choice?.delta.reasoning_content ?? '';
    for (const { index, function: fn } of choice?.delta.tool_calls ?? [])
      addCall(outcome, index, fn.name, fn.arguments);
    outcome.finish = choice?.finish_reason ?? outcome.finish;
    if (json?.usage) outcome.usage = [json.usage.prompt_tokens, json.usage.completion_tokens];
  }
  return outcome;
}

export async function completion(url: string, model = 'p/m'): Promise<Outcome> {
  const outcome = empty();
  const response = await postJson(`${url}/v1/chat/completions`, { model, ...QUESTION });
  // biome-ignore lint/suspicious/noExplicitAny: the body of an OpenAI answer or error
  const { choices, error, usage } = (await response.json()) as any;
  if (error) return { ...outcome, error: error.code };
  const { message, finish_reason: finish } = choices[0];
  for (const [index, { function: fn }] of (message.tool_calls ?? []).entries())
    addCall(outcome, index, fn.name, fn.arguments);
  return {
    ...outcome,
    text: message.content ?? '',
    reasoning: message.reasoning_content ?? '',
    finish,
    usage: usage && [usage.prompt_tokens, usage.completion_tokens],
  };
}

/** Asks all three APIs and compares the outcomes. */
async function check(t: Test, { app, url, calls: callCount, name }: Playing, expected: Expected): Promise<void> {
  const {
    text = '',
    reasoning = '',
    calls = [],
    finish,
    error,
    retryable,
    usage,
    asked = 1,
    anomalies = [],
  } = expected;
  const model = `${name}/m`;
  const success = { text, reasoning, calls, finish, error: undefined, ...(usage && { usage }) };
  const answer = await ask(url, model);
  t.match(
    answer,
    error ? { text, reasoning, error, ...(retryable !== undefined && { retryable }) } : success,
    'GET /ask/stream',
  );
  t.equal(callCount(), asked, 'upstream calls of one question');
  for (const kind of anomalies) {
    const count = await metricValue(app, 'sluice_parse_anomalies_total', { provider: name, kind });
    t.ok(count > 0, `anomaly ${kind} is counted`);
  }
  const streamed = await completionStream(url, model);
  if (error)
    t.ok(streamed.error !== undefined && streamed.finish === undefined, '/v1, streamed: an error and no finish');
  else t.match(streamed, success, '/v1, streamed');
  const whole = await completion(url, model);
  if (error) t.ok(whole.error !== undefined, '/v1, whole: an error');
  else t.match(whole, success, '/v1, whole');
}

/** Each question of such a case takes one of the ten retries that a service has at its start. */
const RETRYING_CASES_PER_SERVICE = 3;

/** Plays all cases, several at a time. They share services: each case is one provider. */
export async function checkAll(t: Test, cases: readonly UpstreamCase[]): Promise<void> {
  t.jobs = 16;
  const retrying = cases.filter(({ expected }) => (expected.asked ?? 1) > 1);
  const groups = [cases.filter((upstream) => !retrying.includes(upstream))];
  while (retrying.length > 0) groups.push(retrying.splice(0, RETRYING_CASES_PER_SERVICE));
  for (const group of groups.filter(({ length }) => length > 0)) {
    const served = await playTogether(t, group);
    for (const [i, { name, expected }] of group.entries()) {
      t.test(name, (t) => check(t, served[i] as Playing, expected));
    }
  }
}
