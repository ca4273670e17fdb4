import { existsSync, readFileSync } from 'node:fs';
import t from 'tap';
import { build, captureLog } from '../helper.ts';
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
