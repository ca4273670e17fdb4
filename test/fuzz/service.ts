import { Agent, request as httpRequest } from 'node:http';
import { Writable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import type { Test } from 'tap';
import { bearer, serve, sha256, until, writeConfig } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { anthropic, gemini, lines, ollama, openai } from '../providers/dialects.ts';
import { startUpstream } from '../upstream.ts';
import type { Draft } from './requests.ts';
import { CANARY } from './values.ts';
import type { Wire } from './wire-faults.ts';

/** The service that is fuzzed: keys, tickets and streams of all kinds, and a provider of every API that answers well. */

export const REQUESTS_PER_MINUTE = 1_000_000;
const SECRETS = {
  main: `sk-main-${'a'.repeat(20)}`,
  other: `sk-other-${'b'.repeat(20)}`,
  spent: `sk-spent-${'c'.repeat(20)}`,
};
const PROVIDER_KEY = `sk-provider-${'d'.repeat(20)}`;

/** A response, and what the service logged and counted meanwhile. */
export interface Outcome {
  readonly status: number;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly body: string;
  /** True if the connection was cut before the response was complete. */
  readonly isCut: boolean;
  /** Ticket of the request; undefined without one. */
  readonly ticket: string | undefined;
  /** Log lines since the last outcome. Those of an answer may follow later. */
  readonly log: string;
  /** Requests that were counted meanwhile, as `status: number`. */
  readonly counted: Readonly<Record<string, number>>;
}

export interface FuzzService {
  readonly app: FastifyInstance;
  /** Secrets that no error and no log line may have. */
  readonly secrets: readonly string[];
  /** Completes a draft with its stream and credentials, sends it, and waits until it is counted. */
  send(draft: Draft): Promise<Outcome>;
  /** Starts the streams that drafts name. Those of earlier calls may have expired. */
  renewStreams(): Promise<void>;
}

const ANSWERS: Readonly<Record<string, string>> = {
  '/openai/': openai.answer('stop'),
  '/anthropic/': anthropic.answer('end_turn'),
  '/gemini/': gemini.answer('STOP'),
  '/ollama/': ollama.answer('stop'),
};

export async function startFuzzService(t: Test): Promise<FuzzService> {
  const upstream = await startUpstream(t, ({ request, response }) => {
    const answer = Object.entries(ANSWERS).find(([path]) => request.url?.startsWith(path))?.[1] ?? lines({});
    const type = request.url?.startsWith('/ollama/') ? 'application/x-ndjson' : 'text/event-stream';
    response.writeHead(200, { 'content-type': type }).end(answer);
    upstream.calls.length = 0;
  });
  const provider = (type: string, path: string) =>
    `{ type: ${type}, baseUrl: "${upstream.url}/${path}", apiKeys: ["${PROVIDER_KEY}"] }`;
  const yaml = `
keys:
  - { name: main, sha256: "${sha256(SECRETS.main)}", requestsPerMinute: ${REQUESTS_PER_MINUTE} }
  - { name: other, sha256: "${sha256(SECRETS.other)}" }
  - { name: spent, sha256: "${sha256(SECRETS.spent)}", requestsPerMinute: 1 }
providers:
  one: ${provider('openai-compatible', 'openai/v1')}
  two: ${provider('anthropic', 'anthropic/v1')}
  three: ${provider('gemini', 'gemini/v1beta')}
  four: ${provider('ollama', 'ollama')}
models:
  - { name: chat, targets: [{ provider: one, model: m }] }
  - { name: claude, targets: [{ provider: two, model: claude-opus-4-8 }] }
  - { name: gem, targets: [{ provider: three, model: gemini-3-pro }] }
  - { name: llama, targets: [{ provider: four, model: llama }] }
limits: { unauthenticatedPerMinute: 0 }`;
  const log: string[] = [];
  const logTo = new Writable({
    write(bytes, _, done) {
      log.push(String(bytes));
      done();
    },
  });
  const { app, url } = await serve(t, {
    env: {
      CONFIG_FILE: writeConfig(t, yaml),
      DEFAULT_MODEL: 'chat',
      LOG_LEVEL: 'debug',
      CORS_ORIGINS: 'https://ok.example',
    },
    logTo,
  });
  const agent = new Agent({ keepAlive: true });
  t.teardown(() => agent.destroy());

  const ask = async (key: string, body: object): Promise<{ id: string; ticket: string }> => {
    const response = await postJson(`${url}/streams`, body, bearer(key));
    const { id, url: readUrl } = (await response.json()) as { id: string; url: string };
    return { id, ticket: new URL(readUrl, url).searchParams.get('ticket') ?? '' };
  };
  const newTicket = async (seconds: number) => {
    const response = await postJson(`${url}/tickets`, { seconds }, bearer(SECRETS.main));
    return (await response.json()) as { ticket: string; expiresAt: string };
  };
  const expired = await newTicket(1);
  await until(() => Date.now() > Date.parse(expired.expiresAt), 'a ticket has expired');
  let streams: Record<string, { id: string; ticket: string }> = {};
  /** Ids of responses, by the same names. */
  let responses: Record<string, string> = {};

  const respond = async (key: string, body: object): Promise<string> => {
    const response = await postJson(`${url}/v1/responses`, { input: 'hello', ...body }, bearer(key));
    return ((await response.json()) as { id: string }).id;
  };

  async function renewStreams(): Promise<void> {
    const question = { question: 'hello' };
    responses = {
      own: await respond(SECRETS.main, { background: true }),
      'own, ended': await respond(SECRETS.main, {}),
      deleted: await respond(SECRETS.main, {}),
      'of another owner': await respond(SECRETS.other, { background: true }),
    };
    streams = {
      own: await ask(SECRETS.main, question),
      'own, ended': await ask(SECRETS.main, question),
      'of another owner': await ask(SECRETS.other, question),
      unknown: { id: 'A'.repeat(22), ticket: 'x' },
    };
  }
  await renewStreams();

  async function toWire(draft: Draft): Promise<Wire> {
    const { credentials, wrong } = draft;
    const stream = streams[draft.stream] ?? { id: draft.oddId, ticket: 'x' };
    // The other requests still need theirs.
    const response = draft.method === 'DELETE' && draft.stream === 'own' ? 'deleted' : draft.stream;
    const id = draft.path.includes('/responses/') ? (responses[response] ?? stream.id) : stream.id;
    const fill = (value: string) => value.replace('%', stream.id);
    const { lastEventId, ...query } = draft.query;
    const parameters = new URLSearchParams(query);
    if (lastEventId !== undefined) parameters.set('lastEventId', fill(lastEventId));
    const headers: Wire['headers'] = {};
    for (const [name, value] of Object.entries(draft.headers)) headers[name] = fill(value);
    if (credentials === 'key') headers.authorization = `Bearer ${SECRETS.main}`;
    if (credentials === 'spent key') headers.authorization = `Bearer ${SECRETS.spent}`;
    if (credentials === 'wrong key') headers.authorization = `Bearer ${SECRETS.main}x`;
    if (credentials === 'ticket') parameters.set('ticket', (await newTicket(60)).ticket);
    if (credentials === 'expired ticket') parameters.set('ticket', expired.ticket);
    if (credentials === 'wrong ticket') parameters.set('ticket', `${expired.ticket.slice(0, -4)}AAAA`);
    if (credentials === 'read ticket') parameters.set('ticket', stream.ticket);
    if (draft.body !== undefined) headers['content-type'] = 'application/json';
    const search = parameters.size > 0 ? `?${parameters}` : '';
    const body = draft.body === undefined ? undefined : Buffer.from(draft.body);
    const wire: Wire = { method: draft.method, url: draft.path.replace('{id}', id) + search, headers, body };
    wrong?.wire?.apply(wire);
    return wire;
  }

  /** Returns the number of requests that were counted until now, by status. */
  async function countByStatus(): Promise<Record<string, number>> {
    const counts: Record<string, number> = {};
    for (const { labels, value } of (await app.metrics.requests.get()).values) {
      const status = String(labels.status);
      counts[status] = (counts[status] ?? 0) + value;
    }
    return counts;
  }

  const total = (counts: Record<string, number>) => Object.values(counts).reduce((sum, one) => sum + one, 0);

  async function send(draft: Draft): Promise<Outcome> {
    const wire = await toWire(draft);
    // A key with one request a minute has none left.
    if (draft.credentials === 'spent key') await fetch(`${url}/v1/models`, { headers: bearer(SECRETS.spent) });
    const before = await countByStatus();
    const { status, headers, body, isCut } = await exchange(url, wire, draft.isChunked, agent);
    let after = before;
    await until(
      async () => {
        after = await countByStatus();
        return total(after) > total(before);
      },
      `the request is counted: ${wire.method} ${wire.url.slice(0, 200)} ${status}`,
      2_000,
    );
    const counted: Record<string, number> = {};
    for (const [name, count] of Object.entries(after))
      if (count !== (before[name] ?? 0)) counted[name] = count - (before[name] ?? 0);
    const ticket = new URL(wire.url, url).searchParams.get('ticket') ?? undefined;
    return { status, headers, body, isCut, ticket, log: log.splice(0).join(''), counted };
  }

  return { app, secrets: [...Object.values(SECRETS), PROVIDER_KEY, CANARY], send, renewStreams };
}

/** Sends a request and reads its whole response. */
function exchange(base: string, { method, url, headers, body }: Wire, isChunked: boolean, agent: Agent) {
  return new Promise<Pick<Outcome, 'status' | 'headers' | 'body' | 'isCut'>>((resolve, reject) => {
    const framing = isChunked ? { 'transfer-encoding': 'chunked' } : { 'content-length': String(body?.length) };
    const length = body === undefined ? {} : framing;
    const { hostname, port } = new URL(base);
    const outgoing = httpRequest({ hostname, port, path: url, method, headers: { ...headers, ...length }, agent });
    let answered = false;
    outgoing.on('response', (response) => {
      answered = true;
      let text = '';
      response.setEncoding('utf8').on('data', (part) => {
        text += part;
      });
      response.on('error', () => {}); // 'close' follows.
      response.on('close', () => {
        const { statusCode = 0, headers, complete } = response;
        resolve({ status: statusCode, headers, body: text, isCut: !complete });
      });
    });
    // The service may answer and close before it has read the whole body.
    outgoing.on('error', (error) => {
      if (!answered) reject(error);
    });
    if (body !== undefined) outgoing.write(body);
    outgoing.end();
  });
}
