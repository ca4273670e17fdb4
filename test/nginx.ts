import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { freePort, isInstalled } from './redis.ts';

/** A real nginx, with a configuration as the project has it. */
export interface Nginx {
  readonly url: string;
  /** All that it has logged. */
  log(): string;
}

const NGINX = process.env.NGINX ?? 'nginx';

/** Why tests with nginx cannot run here; false where they can. */
export const noNginx: string | false = isInstalled(NGINX, '-v') ? false : `no ${NGINX} here`;

/** `adapt`: puts in the addresses of the test; port 8080 and where logs go are taken care of. */
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
  while (!(await isOpen(port))) await sleep(20);
  const log = () => ['access', 'error'].map((name) => readFileSync(join(folder, `${name}.log`), 'utf8')).join('');
  return { url: `http://127.0.0.1:${port}`, log };
}

async function isOpen(port: number): Promise<boolean> {
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
