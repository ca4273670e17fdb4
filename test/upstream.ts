import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Test } from 'tap';

/** A real HTTP server in the part of a provider: it plays what a test scripts, and keeps a log. */

export interface Call {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly body: string;
  /** When the connection or the response was closed, in `performance.now()` time. */
  closedAt: number | undefined;
  /** Resolves when the response has closed, whoever closed it. */
  readonly closed: Promise<void>;
  /** Whether everything was written before it closed. */
  finished: boolean;
}

export interface Upstream {
  readonly url: string;
  readonly calls: Call[];
  /** Sockets that were ever opened. */
  readonly sockets: () => number;
  /** The n-th call (from 1), waited for. */
  call(n: number): Promise<Call>;
}

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
      return; // The service gave up while it asked.
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

/** One `chat.completion.chunk` event with this delta. */
export function chunk(delta: object, finish: string | null = null, extra: object = {}): string {
  return `data: ${JSON.stringify({ id: 'c1', object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason: finish }], ...extra })}\n\n`;
}

export function text(content: string): string {
  return chunk({ content });
}

export const STOP = chunk({}, 'stop');
export const DONE = 'data: [DONE]\n\n';

export function sse(response: ServerResponse): ServerResponse {
  return response.writeHead(200, { 'content-type': 'text/event-stream' });
}

/** Plays the same whole answer to every call. */
export function completeAnswer(...deltas: string[]): Script {
  return ({ response }) => {
    sse(response).end(deltas.map(text).join('') + STOP + DONE);
  };
}

/** Begins an answer and leaves it open. */
export function unfinishedAnswer(...deltas: string[]): Script {
  return ({ response }) => {
    sse(response).write(deltas.map(text).join(''));
  };
}

/** Accepts the call and says nothing at all. */
export const silent: Script = () => {};
