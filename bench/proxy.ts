import { createServer, request } from 'node:http';

/** The baseline: copies bytes from one Node socket to another. Every service in Node costs at least as much. */

const upstream = new URL(process.env.UPSTREAM ?? '');

const server = createServer((incoming, outgoing) => {
  if (incoming.url === '/livez') return void outgoing.end();
  const upstreamRequest = request(
    { host: upstream.hostname, port: upstream.port, path: incoming.url, method: incoming.method },
    (response) => {
      outgoing.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(outgoing);
    },
  );
  upstreamRequest.on('error', () => outgoing.destroy());
  outgoing.on('close', () => upstreamRequest.destroy());
  incoming.pipe(upstreamRequest);
});
server.listen(Number(process.env.PORT), '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
