import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';

/** A process under load, on a core of its own where the system can pin it. */

export interface Side {
  readonly name: string;
  readonly url: string;
  /** CPU seconds so far, user and system, of all threads; NaN where /proc does not tell. */
  cpuSeconds(): number;
  /** Resident bytes now; NaN likewise. */
  rssBytes(): number;
  stop(): Promise<void>;
}

const PIN = existsSync('/usr/bin/taskset') ? ['/usr/bin/taskset', '-c', '0'] : [];
const TICKS_PER_SECOND = 100;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

/** The service with nothing to say and one model, which is the bench's upstream. */
export const sluiceEnv = (upstream: string): Record<string, string> => ({
  NODE_ENV: 'production',
  LOG_LEVEL: 'fatal',
  BELLA_API_KEY: 'bench',
  BELLA_BASE_URL: `${upstream}/v1`,
  DEFAULT_MODEL: 'bella/bench',
});

export async function startSide(name: string, script: string, env: Record<string, string>): Promise<Side> {
  const port = await freePort();
  const [command, ...args] = [...PIN, process.execPath, script];
  const child: ChildProcess = spawn(command as string, args, {
    env: { ...process.env, ...env, PORT: String(port) },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const url = `http://127.0.0.1:${port}`;
  for (let tries = 0; ; tries++) {
    // Read whole, so that no half-read connection is left to be reset when the side is stopped.
    const up = await fetch(`${url}/livez`).then(
      (response) => response.arrayBuffer().then(() => true),
      () => false,
    );
    if (up) break;
    if (tries > 200 || child.exitCode !== null) throw new Error(`${name} does not start`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const proc = (file: string) => {
    try {
      return readFileSync(`/proc/${child.pid}/${file}`, 'utf8');
    } catch {
      return '';
    }
  };
  return {
    name,
    url,
    cpuSeconds() {
      const fields = proc('stat').split(') ')[1]?.split(' ');
      return (Number(fields?.[11]) + Number(fields?.[12])) / TICKS_PER_SECOND;
    },
    rssBytes: () => Number(/VmRSS:\s+(\d+)/.exec(proc('status'))?.[1]) * 1024,
    async stop() {
      child.kill('SIGTERM');
      await once(child, 'close');
    },
  };
}
