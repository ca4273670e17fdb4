import { createServer, request } from 'node:http';

/** The floor: bytes from one Node socket to another, unread. What any service in Node costs at least. */

const upstream = new URL(process.env.UPSTREAM ?? '');

const server = createServer((incoming, outgoing) => {
  if (incoming.url === '/livez') return void outgoing.end();
  const call = request(
    { host: upstream.hostname, port: upstream.port, path: incoming.url, method: incoming.method },
    (response) => {
      outgoing.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(outgoing);
    },
  );
  call.on('error', () => outgoing.destroy());
  outgoing.on('close', () => call.destroy());
  incoming.pipe(call);
});
server.listen(Number(process.env.PORT), '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
