import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import t from 'tap';
import { build, captureLog, serve, until } from '../helper.ts';
import { runServer, spawnServer } from '../process.ts';
import { readAll } from '../sse-client.ts';

/** Counts the listening sockets of a port in the tables of the kernel. */
function countListeningSockets(port: number): number {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  const rows = ['/proc/net/tcp', '/proc/net/tcp6'].map((file) => (existsSync(file) ? readFileSync(file, 'utf8') : ''));
  return rows
    .join('\n')
    .split('\n')
    .filter((row) => new RegExp(`^\\s*\\d+: [0-9A-F]+:${hex} [0-9A-F]+:0000 0A `).test(row)).length;
}

const [major, minor] = process.versions.node.split('.').map(Number) as [number, number];
const canSharePort = process.platform === 'linux' && (major > 22 || (major === 22 && minor >= 12));
const SOCKETS = canSharePort ? 8 : 1;

for (const host of ['127.0.0.1', '0.0.0.0', '::1', '::', 'localhost']) {
  t.test(`LISTEN_SOCKETS=8 opens ${SOCKETS} sockets on HOST=${host}, and closes them`, async (t) => {
    const server = await runServer(t, { HOST: host, LISTEN_SOCKETS: '8' });
    const { port } = new URL(server.url);
    const addresses = new Set(
      server.lines.map(({ msg }) => msg).filter((msg) => String(msg).startsWith('Server listening')),
    );
    const expected = host === 'localhost' ? addresses.size * SOCKETS : SOCKETS;
    const count = countListeningSockets(Number(port));
    t.ok([SOCKETS, expected, 2 * SOCKETS].includes(count), `${count} sockets`);
    const name = host.includes(':') ? '[::1]' : host === 'localhost' ? 'localhost' : '127.0.0.1';
    const answers = await Promise.all(
      Array.from({ length: 40 }, () => readAll(`http://${name}:${port}/livez`, { headers: { accept: '*/*' } })),
    );
    t.ok(
      answers.every(({ response }) => response.statusCode === 200),
      'every socket answers its connections',
    );

    const second = spawnServer({ HOST: host, PORT: port, LISTEN_SOCKETS: '8' });
    t.equal(await second.exit, 1, 'a second instance cannot start');
    t.match(second.output(), /EADDRINUSE/);

    server.child.kill('SIGTERM');
    t.equal(await server.exit, 0);
    t.equal(countListeningSockets(Number(port)), 0, 'all sockets are closed');
  });
}

t.test('connections to every address of `localhost` are counted', async (t) => {
  const server = await runServer(t, { HOST: 'localhost', LISTEN_SOCKETS: '2' });
  const port = Number(new URL(server.url).port);
  const sockets: Socket[] = [];
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
  });
  const addresses = await lookup('localhost', { all: true });
  for (const { address } of addresses) {
    const socket = connect(port, address).on('error', () => {});
    await Promise.race([once(socket, 'connect'), once(socket, 'close')]); // This host may not have the address.
    if (!socket.destroyed) sockets.push(socket);
  }
  t.ok(sockets.length > 0, `${sockets.length} of ${addresses.length} addresses`);
  const count = async () => {
    const response = await fetch(`${server.url}/metrics`);
    return Number(/^sluice_connections (\d+)$/m.exec(await response.text())?.[1]);
  };
  await until(async () => (await count()) === sockets.length + 1, 'all are counted');
});

t.test('a connection that cannot be accepted is logged once, and nothing ends', async (t) => {
  const { logTo, log } = captureLog();
  const { app, url } = await serve(t, { logTo });
  const error = Object.assign(new Error('accept EMFILE'), { code: 'EMFILE' });
  for (let i = 0; i < 3; i++) app.server.emit('error', error);
  t.equal((await fetch(`${url}/livez`)).status, 200);
  const lines = log().match(/.*accepting a connection failed.*/g) ?? [];
  t.equal(lines.length, 1);
  t.match(JSON.parse(lines[0] as string), { level: 40, code: 'EMFILE' });
});

t.test(
  'a platform that cannot share a port logs this once, at debug level',
  { skip: canSharePort && 'this platform can share a port' },
  async (t) => {
    const { logTo, log } = captureLog();
    const app = await build(t, { logTo, env: { LOG_LEVEL: 'debug' } });
    await app.openListenSockets('127.0.0.1', 0);
    t.equal(log().match(/cannot share a port/g)?.length, 1);
  },
);

t.test('LISTEN_SOCKETS=1 opens one socket', async (t) => {
  const server = await runServer(t, { LISTEN_SOCKETS: '1' });
  t.equal(countListeningSockets(Number(new URL(server.url).port)), 1);
});
