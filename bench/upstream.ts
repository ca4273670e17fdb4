import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { chunkOf, FINAL_EVENTS, parseQuestion, tokenAt } from './question.ts';

/** The model: an OpenAI-compatible server that answers questions of the benchmark at the pace they contain. */

export interface Upstream {
  readonly url: string;
  /** By question id: the time at which each token was written, in `performance.now()` milliseconds. */
  readonly sentAt: Map<string, Float64Array>;
  /** By question id: the time at which its request came, on the same clock. Only for questions in `sentAt`. */
  readonly arrivedAt: Map<string, number>;
  /** By question id: the number of tokens after which the connection is cut. */
  readonly cutAfter: Map<string, number>;
  /** Called with the id of a question whose connection closes, and whether that was after the end of the answer. */
  onClosed: (id: string, isComplete: boolean) => void;
  close(): void;
}

export async function startUpstream(): Promise<Upstream> {
  const sentAt = new Map<string, Float64Array>();
  const arrivedAt = new Map<string, number>();
  const cutAfter = new Map<string, number>();
  const server: Server = createServer(async (request, response) => {
    const requestedAt = performance.now();
    let body = '';
    for await (const chunk of request) body += chunk;
    const question = parseQuestion(decodeURIComponent(request.url ?? '') + body);
    if (question === undefined) return void response.writeHead(400).end();
    const { id, tokens, gapMs } = question;
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    const times = sentAt.get(id);
    if (times) arrivedAt.set(id, requestedAt);
    const cutAt = cutAfter.get(id) ?? Number.POSITIVE_INFINITY;
    let nextToken = 0;
    const startedAt = performance.now();
    const write = (endToken: number): void => {
      let hasRoom = true;
      const now = performance.now();
      for (; nextToken < endToken && hasRoom; nextToken++) {
        if (times) times[nextToken] = now;
        hasRoom = response.write(chunkOf(tokenAt(nextToken)));
      }
      if (nextToken >= cutAt) return void setImmediate(() => response.destroy());
      if (nextToken >= tokens) response.end(FINAL_EVENTS);
    };
    const dueTokens = () =>
      gapMs === 0 ? tokens : Math.min(tokens, Math.floor((performance.now() - startedAt) / gapMs) + 1);
    const timer = setInterval(() => write(dueTokens()), Math.max(gapMs, 1));
    response.on('drain', () => write(dueTokens()));
    response.on('close', () => {
      clearInterval(timer);
      upstream.onClosed(id, response.writableFinished);
    });
    write(dueTokens());
  });
  server.on('connection', (socket) => socket.setNoDelay(true));
  server.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const upstream: Upstream = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    sentAt,
    arrivedAt,
    cutAfter,
    onClosed: () => {},
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
  return upstream;
}
