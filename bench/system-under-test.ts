import { type ChildProcess, execFileSync, type StdioOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { availableParallelism } from 'node:os';
import type { Access } from './client.ts';

/** The process that a benchmark measures. Pinned to CPU 0 if `taskset` and a second core are available. */
export interface SystemUnderTest extends Access {
  readonly name: string;
  readonly url: string;
  /** Returns the CPU seconds of all threads since the start, user and system; NaN without /proc. */
  cpuSeconds(): number;
  /** Returns the seconds that its threads were ready to run while the core was taken; NaN without /proc. */
  waitSeconds(): number;
  /** Returns the resident memory in bytes; NaN without /proc. */
  rssBytes(): number;
  /** Returns the number of open descriptors; NaN without /proc. */
  descriptors(): number;
  /** Collects garbage and returns the bytes in use on the heap; NaN if the system was not started with `watchHeap`. */
  heapBytes(): Promise<number>;
  stop(): Promise<void>;
}

/** Without a second core there is none to leave to the load. */
const PIN_COMMAND: readonly string[] =
  existsSync('/usr/bin/taskset') && availableParallelism() > 1 ? ['/usr/bin/taskset', '-c', '0'] : [];
/** Unit of the CPU times in /proc. */
const TICKS_PER_SECOND = 100;
/** Time that a process has to end after `SIGTERM`. Some servers wait for their open responses. */
const STOP_MS = 3_000;

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

/** Moves this process, which has the load and the upstream, to CPU 1, away from the system under test. */
export function pinLoad(): void {
  if (PIN_COMMAND.length > 0) execFileSync('/usr/bin/taskset', ['-a', '-p', '-c', '1', String(process.pid)]);
}

/**
 * Starts a Node script on a free port and waits until `GET /livez` answers.
 * @param watchHeap true to load `heap-probe.js` into the process, so that its heap can be measured
 * @throws Error if the process exits, or does not answer within about ten seconds
 */
export function startSystem(
  name: string,
  script: string,
  env: Record<string, string>,
  watchHeap = false,
): Promise<SystemUnderTest> {
  const probe = watchHeap ? ['--import', new URL('heap-probe.js', import.meta.url).href] : [];
  const stdio: StdioOptions = ['ignore', 'ignore', 'inherit', ...(watchHeap ? (['ipc'] as const) : [])];
  return startProcess({ name, command: () => [process.execPath, ...probe, script], env, stdio, watchHeap });
}

/** A server, and how to start it. */
export interface ServerProcess {
  readonly name: string;
  /** Returns the command. The server also gets the port as `PORT`. */
  readonly command: (port: number) => readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly stdio: StdioOptions;
  readonly cwd?: string;
  /** Path that answers when the server is ready; `/livez` by default. */
  readonly readyPath?: string;
  readonly startMs?: number;
  /** The command loads `heap-probe.js`, and `stdio` has a channel to it. */
  readonly watchHeap?: boolean;
}

/** Starts a server on a free port. @throws Error if it exits, or does not answer within `startMs` */
export async function startProcess(server: ServerProcess): Promise<SystemUnderTest> {
  const { name, env, stdio, cwd, readyPath = '/livez', startMs = 10_000, watchHeap = false } = server;
  const port = await freePort();
  const [command, ...args] = [...PIN_COMMAND, ...server.command(port)];
  const child: ChildProcess = spawn(command as string, args, {
    cwd,
    env: { ...process.env, ...env, PORT: String(port) },
    stdio,
  });
  const closed = once(child, 'close').catch(() => {}); // A command that does not exist.
  const url = `http://127.0.0.1:${port}`;
  for (const startedAt = performance.now(); ; ) {
    // Read the whole body, so that no open connection is reset when the process is stopped.
    const isUp = await fetch(url + readyPath, { signal: AbortSignal.timeout(startMs) }).then(
      (response) => response.arrayBuffer().then(() => true),
      () => false,
    );
    if (isUp) break;
    if (performance.now() > startedAt + startMs || child.pid === undefined || child.exitCode !== null) {
      child.kill('SIGKILL');
      throw new Error(`${name} did not start`);
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
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
    waitSeconds() {
      try {
        const threads = readdirSync(`/proc/${child.pid}/task`);
        const waits = threads.map((thread) => Number(readProc(`task/${thread}/schedstat`).split(' ')[1]));
        return waits.reduce((sum, wait) => sum + wait, 0) / 1e9;
      } catch {
        return Number.NaN;
      }
    },
    rssBytes: () => Number(/VmRSS:\s+(\d+)/.exec(readProc('status'))?.[1]) * 1024,
    descriptors() {
      try {
        return readdirSync(`/proc/${child.pid}/fd`).length;
      } catch {
        return Number.NaN;
      }
    },
    async heapBytes() {
      if (!watchHeap || !child.connected) return Number.NaN;
      child.send('heap');
      const [bytes] = await once(child, 'message');
      return bytes as number;
    },
    async stop() {
      child.kill('SIGTERM');
      const killTimer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
      await closed;
      clearTimeout(killTimer);
    },
  };
}
