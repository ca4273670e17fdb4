import { existsSync, readFileSync } from 'node:fs';
import { Writable } from 'node:stream';
import t from 'tap';
import { build } from '../helper.ts';
import { runServer, spawnServer } from '../process.ts';
import { readAll } from '../sse-client.ts';

/** Sockets in LISTEN on this port, by the kernel's own tables. */
function listening(port: number): number {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  const rows = ['/proc/net/tcp', '/proc/net/tcp6'].map((file) => (existsSync(file) ? readFileSync(file, 'utf8') : ''));
  return rows
    .join('\n')
    .split('\n')
    .filter((row) => new RegExp(`^\\s*\\d+: [0-9A-F]+:${hex} [0-9A-F]+:0000 0A `).test(row)).length;
}

const [major, minor] = process.versions.node.split('.').map(Number) as [number, number];
const shares = process.platform === 'linux' && (major > 22 || (major === 22 && minor >= 12) || false);
const COUNT = shares ? 8 : 1;

for (const host of ['127.0.0.1', '0.0.0.0', '::1', '::', 'localhost']) {
  t.test(`HOST=${host}`, async (t) => {
    const server = await runServer(t, { HOST: host, LISTEN_SOCKETS: '8' });
    const { port } = new URL(server.url);
    const addresses = new Set(
      server.lines.map(({ msg }) => msg).filter((msg) => String(msg).startsWith('Server listening')),
    );
    const bound = host === 'localhost' ? addresses.size * COUNT : COUNT;
    t.ok([COUNT, bound, 2 * COUNT].includes(listening(Number(port))), `${listening(Number(port))} sockets`);
    const name = host.includes(':') ? '[::1]' : host === 'localhost' ? 'localhost' : '127.0.0.1';
    const answers = await Promise.all(
      Array.from({ length: 40 }, () => readAll(`http://${name}:${port}/livez`, { headers: { accept: '*/*' } })),
    );
    t.ok(
      answers.every(({ response }) => response.statusCode === 200),
      'every connection is answered, whichever socket took it',
    );

    const second = spawnServer({ HOST: host, PORT: port, LISTEN_SOCKETS: '8' });
    t.equal(await second.exit, 1, 'a second instance cannot start');
    t.match(second.output(), /EADDRINUSE/);

    server.child.kill('SIGTERM');
    t.equal(await server.exit, 0);
    t.equal(listening(Number(port)), 0, 'all sockets are closed');
  });
}

t.test(
  'a platform that cannot share a port says so once, at debug level',
  { skip: shares && 'it can here' },
  async (t) => {
    let log = '';
    const logTo = new Writable({
      write(chunk, _, done) {
        log += chunk;
        done();
      },
    });
    const app = await build(t, { logTo, env: { LOG_LEVEL: 'debug' } });
    await app.openListenSockets('127.0.0.1', 0);
    t.equal(log.match(/cannot share a port/g)?.length, 1);
  },
);

t.test('one is one', async (t) => {
  const server = await runServer(t, { LISTEN_SOCKETS: '1' });
  t.equal(listening(Number(new URL(server.url).port)), 1);
});
