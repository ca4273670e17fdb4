import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';

/** The process that a benchmark measures. Pinned to CPU 0 if `taskset` is available. */
export interface SystemUnderTest {
  readonly name: string;
  readonly url: string;
  /** Returns the CPU seconds of all threads since the start, user and system; NaN without /proc. */
  cpuSeconds(): number;
  /** Returns the resident memory in bytes; NaN without /proc. */
  rssBytes(): number;
  stop(): Promise<void>;
}

const PIN_COMMAND = existsSync('/usr/bin/taskset') ? ['/usr/bin/taskset', '-c', '0'] : [];
/** Unit of the CPU times in /proc. */
const TICKS_PER_SECOND = 100;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

/** Returns an environment for Sluice: fatal log lines only, and one model, which is the upstream of the benchmark. */
export const sluiceEnv = (upstreamUrl: string): Record<string, string> => ({
  NODE_ENV: 'production',
  LOG_LEVEL: 'fatal',
  BELLA_API_KEY: 'bench',
  BELLA_BASE_URL: `${upstreamUrl}/v1`,
  DEFAULT_MODEL: 'bella/bench',
});

/**
 * Starts a Node script on a free port and waits until `GET /livez` answers.
 * @throws Error if the process exits, or does not answer within about ten seconds
 */
export async function startSystem(name: string, script: string, env: Record<string, string>): Promise<SystemUnderTest> {
  const port = await freePort();
  const [command, ...args] = [...PIN_COMMAND, process.execPath, script];
  const child: ChildProcess = spawn(command as string, args, {
    env: { ...process.env, ...env, PORT: String(port) },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const url = `http://127.0.0.1:${port}`;
  for (let tries = 0; ; tries++) {
    // Read the whole body, so that no open connection is reset when the process is stopped.
    const isUp = await fetch(`${url}/livez`).then(
      (response) => response.arrayBuffer().then(() => true),
      () => false,
    );
    if (isUp) break;
    if (tries > 200 || child.exitCode !== null) throw new Error(`${name} did not start`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const readProc = (file: string) => {
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
      const fields = readProc('stat').split(') ')[1]?.split(' ');
      return (Number(fields?.[11]) + Number(fields?.[12])) / TICKS_PER_SECOND;
    },
    rssBytes: () => Number(/VmRSS:\s+(\d+)/.exec(readProc('status'))?.[1]) * 1024,
    async stop() {
      child.kill('SIGTERM');
      await once(child, 'close');
    },
  };
}
