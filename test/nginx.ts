import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { until } from './helper.ts';
import { freePort, isInstalled } from './redis.ts';

/** A real nginx with a configuration of the project. */
export interface Nginx {
  readonly url: string;
  /** Returns the access log and the error log. */
  log(): string;
}

const NGINX = process.env.NGINX ?? 'nginx';

/** Reason to skip tests that need nginx; false if it is installed. */
export const noNginx: string | false = isInstalled(NGINX, '-v') ? false : `${NGINX} is not installed`;

/** Starts nginx on a free port instead of 8080. `adapt` replaces the addresses of upstreams with those of the test. */
export async function startNginx(t: Test, configuration: string, adapt: (text: string) => string): Promise<Nginx> {
  const port = await freePort();
  const folder = mkdtempSync(join(tmpdir(), 'nginx-'));
  const text = adapt(configuration)
    .replace('listen 8080;', `listen 127.0.0.1:${port};`)
    .replace('worker_processes auto;', 'worker_processes 1;')
    .replace('access_log /dev/stdout', `access_log ${folder}/access.log`)
    .replace('error_log /dev/stderr', `error_log ${folder}/error.log`);
  const file = join(folder, 'nginx.conf');
  writeFileSync(file, `pid ${folder}/pid;\n${text}`);
  const child = spawn(NGINX, ['-p', folder, '-c', file, '-g', 'daemon off;'], { stdio: 'ignore' });
  t.teardown(async () => {
    child.kill('SIGTERM');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    rmSync(folder, { recursive: true, force: true });
  });
  await until(() => isOpen(port), 'nginx accepts connections');
  const log = () => ['access', 'error'].map((name) => readFileSync(join(folder, `${name}.log`), 'utf8')).join('');
  return { url: `http://127.0.0.1:${port}`, log };
}

/** Returns true if a server accepts connections on a port. */
export async function isOpen(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
