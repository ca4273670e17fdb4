import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';

/** An HTTP server that acts as a provider: it runs the script of the test for every call, and records the calls. */

export interface Call {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly body: string;
  /** Time of `performance.now()` at which the response was closed. */
  closedAt: number | undefined;
  /** Resolves when the response is closed, by either side. */
  readonly closed: Promise<void>;
  /** True if the response was written to its end before it was closed. */
  finished: boolean;
}

export interface Upstream {
  readonly url: string;
  readonly calls: Call[];
  /** Returns the number of connections that have been opened. */
  readonly sockets: () => number;
  /** Waits for the n-th call, counted from 1. */
  call(n: number): Promise<Call>;
}

/** Answers one call. */
export type Script = (call: Call) => void | Promise<void>;

export async function startUpstream(t: Test, script: Script): Promise<Upstream> {
  const calls: Call[] = [];
  const waiting: (() => void)[] = [];
  let sockets = 0;
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of request) chunks.push(chunk as Buffer);
    } catch {
      return; // The service has aborted the request.
    }
    const closed = new Promise<void>((resolve) => {
      response.on('close', () => {
        call.closedAt = performance.now();
        call.finished = response.writableFinished;
        resolve();
      });
    });
    response.on('error', () => {});
    const body = Buffer.concat(chunks).toString();
    const call: Call = { request, response, body, closedAt: undefined, closed, finished: false };
    calls.push(call);
    for (const wake of waiting.splice(0)) wake();
    await script(call);
  });
  server.on('connection', (socket) => {
    sockets += 1;
    socket.setNoDelay(true).on('error', () => {});
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls,
    sockets: () => sockets,
    async call(n) {
      while (calls.length < n) await new Promise<void>((resolve) => waiting.push(resolve));
      return calls[n - 1] as Call;
    },
  };
}

/** Returns a `chat.completion.chunk` event with this delta. */
export function chunk(delta: object, finish: string | null = null, extra: object = {}): string {
  return `data: ${JSON.stringify({ id: 'c1', object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason: finish }], ...extra })}\n\n`;
}

/** Returns an event with a delta of text. */
export function text(content: string): string {
  return chunk({ content });
}

export const STOP = chunk({}, 'stop');
export const DONE = 'data: [DONE]\n\n';

/** Writes the headers of an event stream. */
export function sse(response: ServerResponse): ServerResponse {
  return response.writeHead(200, { 'content-type': 'text/event-stream' });
}

/** Answers every call with these deltas and the end of the answer. */
export function completeAnswer(...deltas: string[]): Script {
  return ({ response }) => {
    sse(response).end(deltas.map(text).join('') + STOP + DONE);
  };
}

/** Answers every call with these deltas and leaves the response open. */
export function unfinishedAnswer(...deltas: string[]): Script {
  return ({ response }) => {
    sse(response).write(deltas.map(text).join(''));
  };
}

/** Returns the deltas of an answer of `numberedAnswer`. */
export const numberedDeltas = (count: number) => Array.from({ length: count }, (_, i) => `${i}你 `);

/** Number of deltas that `numberedAnswer` writes before it waits for `release`. */
const BEFORE_RELEASE = 20;

/**
 * Answers with a number every `ms`. If the prompt holds a partial answer, it continues behind that. After the
 * first numbers, the answer waits for `release`, so that no answer ends before the test has killed a replica.
 */
export const numberedAnswer =
  (count: number, ms: number, release?: Promise<unknown>): Script =>
  async ({ body, response }) => {
    const { messages } = JSON.parse(body) as { messages: { role: string; content: string }[] };
    const partial = messages.find(({ role }) => role === 'assistant')?.content ?? '';
    sse(response);
    for (const [i, delta] of numberedDeltas(count).entries()) {
      if (i < partial.split(' ').length - 1) continue;
      if (i === BEFORE_RELEASE) await release;
      if (response.destroyed) return;
      response.write(text(delta));
      await sleep(ms);
    }
    response.end(STOP + DONE);
  };

/** Accepts every call and never answers. */
export const silent: Script = () => {};
