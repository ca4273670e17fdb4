import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { chunkOf, DONE, parseQuestion, type Question, tokenAt } from './question.ts';

/** The model: an OpenAI-compatible server that answers bench questions at the pace they ask for. */

export interface Upstream {
  readonly url: string;
  /** When each token of a running question was written, in `performance.now()` milliseconds. */
  readonly sent: Map<string, Float64Array>;
  /** Called with a question's id when its connection closes before the end. */
  onAborted: (id: string) => void;
  close(): void;
}

export async function startUpstream(): Promise<Upstream> {
  const sent = new Map<string, Float64Array>();
  const server: Server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const question = parseQuestion(decodeURIComponent(request.url ?? '') + body);
    if (question === undefined) return void response.writeHead(400).end();
    const { id, tokens, gapMs } = question;
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    const times = sent.get(id);
    let next = 0;
    const start = performance.now();
    const write = (upTo: number): boolean => {
      let room = true;
      const now = performance.now();
      for (; next < upTo && room; next++) {
        if (times) times[next] = now;
        room = response.write(chunkOf(tokenAt(next)));
      }
      if (next >= tokens) response.end(DONE);
      return room;
    };
    const due = () => (gapMs === 0 ? tokens : Math.min(tokens, Math.floor((performance.now() - start) / gapMs) + 1));
    const timer = setInterval(() => write(due()), Math.max(gapMs, 1));
    response.on('drain', () => write(due()));
    response.on('close', () => {
      clearInterval(timer);
      if (!response.writableFinished) upstream.onAborted(id);
    });
    write(due());
  });
  server.on('connection', (socket) => socket.setNoDelay(true));
  server.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const upstream: Upstream = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    sent,
    onAborted: () => {},
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
  return upstream;
}

export type { Question };
