import { execFileSync } from 'node:child_process';
import { open } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import t, { type Test } from 'tap';
import { until, writeConfig } from './helper.ts';
import { spawnServer } from './process.ts';

/**
 * Tests the start of the compiled files, as `npm start` runs them: signals that arrive in it, and what a start that fails
 * prints.
 */

/** A Redis that accepts connections and never answers: the start waits for it. */
async function silentRedis(t: Test): Promise<{ url: string; connections: () => number }> {
  let connections = 0;
  const sockets = new Set<{ destroy(): void }>();
  const server: Server = createServer((socket) => {
    connections += 1;
    sockets.add(socket.on('error', () => {}));
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { port } = server.address() as { port: number };
  return { url: `redis://127.0.0.1:${port}`, connections: () => connections };
}

function startServer(t: Test, env: Record<string, string>) {
  const server = spawnServer({ PORT: '0', ...env }, { file: 'build/server.js' });
  t.teardown(async () => {
    server.child.kill('SIGKILL');
    await server.exit;
  });
  return server;
}

t.test('SIGTERM and SIGINT during the start end it with exit code 0, before Redis has answered', async (t) => {
  const signals = ['SIGTERM', 'SIGINT'] as const;
  await Promise.all(
    signals.map(async (signal) => {
      const redis = await silentRedis(t);
      const { child, exit, output } = startServer(t, { REDIS_URL: redis.url });
      await until(() => redis.connections() > 0, 'the start waits for Redis');
      child.kill(signal);
      t.equal(await exit, 0, `${signal}: exit code`);
      t.equal(output(), '', `${signal}: the start does not go on`);
    }),
  );
});

t.test('SIGHUP during the start does not end it', async (t) => {
  const redis = await silentRedis(t);
  const { child, exit, output } = startServer(t, { REDIS_URL: redis.url, DRAIN_MS: '0', DRAIN_HANDOVER_MS: '0' });
  await until(() => redis.connections() > 0, 'the start waits for Redis');
  child.kill('SIGHUP');
  await until(() => output().includes('"msg":"ready"'), 'the service is ready');
  t.notMatch(output(), /configuration reloaded/, 'the signal is ignored');
  child.kill('SIGHUP');
  await until(() => output().includes('configuration reloaded'), 'a later SIGHUP reloads');
  child.kill('SIGTERM');
  t.equal(await exit, 0, 'exit code');
});

t.test('a signal while the service is still loaded ends it with exit code 0', async (t) => {
  const pipe = `${t.testdir()}/sluice.yaml`;
  execFileSync('mkfifo', [pipe]);
  const redis = await silentRedis(t);
  const { child, exit, output } = startServer(t, { CONFIG_FILE: pipe, REDIS_URL: redis.url });
  // Resolves when the service opens its configuration, before it loads anything else.
  const file = await open(pipe, 'w');
  child.kill('SIGTERM');
  await file.close();
  t.equal(await exit, 0, 'exit code');
  t.equal(output(), '', 'the start does not go on');
  t.equal(redis.connections(), 0, 'the service has connected to nothing');
});

t.test('a start that fails prints lines without secrets and stacks, and exits 1', async (t) => {
  /** Runs code in the service before its own. */
  const before = (code: string) => ({ NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(code)}` });
  const throwing = `() => { throw new TypeError('CANARY') }`;
  const brokenServer = `import http from 'node:http'; http.createServer = ${throwing}`;
  const lateError = `import http from 'node:http'; const create = http.createServer;
    http.createServer = (...options) => { setTimeout(${throwing}, 1); return create(...options) }`;
  const redis = await silentRedis(t);
  const cases: Record<string, [env: Record<string, string>, output: RegExp]> = {
    'a password with a slash': [
      { REDIS_URL: 'redis://:CANARY/x@127.0.0.1:1' },
      /^ {2}- REDIS_URL: must be redis:.*%2F/m,
    ],
    'a password with a percent sign': [
      { REDIS_URL: 'redis://:CANARY%@127.0.0.1:1' },
      /^ {2}- REDIS_URL: must be redis:.*%25/m,
    ],
    'a key with a space': [
      { OPENAI_API_KEY: 'CANARY key', DEFAULT_MODEL: 'openai/m' },
      /^ {2}- OPENAI_API_KEY: .*contains a space$/m,
    ],
    'a key of white space': [{ OPENAI_API_KEY: '\n' }, /^ {2}- OPENAI_API_KEY: contains only white space$/m],
    'an unknown variable': [
      { OPENAI_KEY: 'CANARY', DEFAULT_MODEL: 'openai/m' },
      /^ {2}- unknown environment variables are ignored: OPENAI_KEY \(did you mean OPENAI_API_KEY\?\)$/m,
    ],
    'a missing file': [{ TICKET_SECRET_FILE: '/nowhere/CANARY' }, /^ {2}- TICKET_SECRET_FILE: file not found$/m],
    'keys of a wrong shape': [{ CONFIG_FILE: writeConfig(t, 'keys: [{ name: CANARY }]') }, /^ {2}- keys\.0\.sha256: /m],
    'an error while the service is built': [before(brokenServer), /^Cannot start: TypeError.*\n$/],
    'an error outside of the start': [{ REDIS_URL: redis.url, ...before(lateError) }, /^Cannot start: TypeError.*\n$/],
  };
  await Promise.all(
    Object.entries(cases).map(async ([name, [env, expected]]) => {
      const { exit, output } = startServer(t, env);
      t.equal(await exit, 1, `${name}: exit code`);
      t.match(output(), expected, name);
      t.notMatch(output(), /CANARY|\n\s+at /, `${name}: no secret, no stack`);
    }),
  );
});

t.test('the compiler of schemas is loaded once the service is ready, before the first question', async (t) => {
  const { child, exit, output } = startServer(t, { DEMO: 'true', LOG_LEVEL: 'debug', DRAIN_MS: '0' });
  await until(() => output().includes('compiler of schemas loaded'), 'the compiler is loaded');
  t.ok(output().indexOf('"msg":"ready"') < output().indexOf('compiler of schemas loaded'), 'after it is ready');
  child.kill('SIGTERM');
  t.equal(await exit, 0);
});
