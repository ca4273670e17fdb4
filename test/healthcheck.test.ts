import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { platform } from 'node:os';
import t from 'tap';
import { writeConfig } from './helper.ts';
import { runServer } from './process.ts';

/** Tests the health check of the Dockerfile, which reads /proc. */

const skip = platform() === 'linux' ? false : 'requires /proc';

/** Runs the health check of a process in an environment, and returns its exit code. */
async function check(pid: number | undefined, env: Record<string, string> = {}): Promise<number> {
  const args = ['build/scripts/healthcheck.js', String(pid)];
  const child = spawn(process.execPath, args, { env: { PATH: process.env.PATH, ...env }, stdio: 'inherit' });
  const [code] = await once(child, 'close');
  return code;
}

t.test('the health check is right for every address and base path', { skip }, async (t) => {
  const inFile = writeConfig(t, 'basePath: "/in/file"\nhost: 127.0.0.3\n');
  const settings: Record<string, string>[] = [
    {},
    { HOST: '0.0.0.0' },
    { HOST: '127.0.0.2', LISTEN_SOCKETS: '1' },
    { HOST: '::' },
    { HOST: '::1' },
    { HOST: '0.0.0.0', BASE_PATH: '/base' },
    { CONFIG_FILE: inFile, NODE_USE_ENV_PROXY: '1', HTTP_PROXY: 'http://127.0.0.1:1' },
  ];
  await Promise.all(
    settings.map(async (env) => {
      const server = await runServer(t, env);
      const { child } = server;
      t.equal(await check(child.pid, env), 0, JSON.stringify(env));
      t.notOk(
        server.lines.some(({ msg }) => msg === 'request'),
        'no line in the access log',
      );
      if (env.CONFIG_FILE === undefined) return;
      writeFileSync(env.CONFIG_FILE, 'port: no number\nbasePath: /other\n');
      t.equal(await check(child.pid, env), 0, 'the file has changed since the start');
    }),
  );
});

t.test('the health check fails if the service hangs, or has ended', { skip }, async (t) => {
  const { child, exit } = await runServer(t, {});
  child.kill('SIGSTOP');
  t.equal(await check(child.pid), 1, 'stopped');
  child.kill('SIGCONT');
  t.equal(await check(child.pid), 0, 'continued');
  child.kill('SIGKILL');
  await exit;
  t.equal(await check(child.pid), 1, 'ended');
});
