import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import type { Test } from 'tap';

/** The compiled service in a process of its own, as in production. */

export interface ServerProcess {
  readonly url: string;
  readonly child: ChildProcess;
  /** Log lines until now. */
  readonly lines: Record<string, unknown>[];
  /** Resolves with the exit code, or with the signal that ended the process. */
  readonly exit: Promise<number | string>;
}

/** The bundle, which the image runs. It starts in half of the time of `build/server.js`, the compiled files. */
const SERVER = 'build/bundle/server.js';

export interface ProcessOptions {
  /** Limit of open files; by default that of the tests. */
  readonly openFiles?: number;
  /** Module that the process loads first. */
  readonly preload?: string;
  /** File to run in place of the bundle. */
  readonly file?: string;
}

/** Starts the service and does not wait for it. The caller ends the process. */
export function spawnServer(
  env: Record<string, string>,
  { openFiles, preload, file = SERVER }: ProcessOptions = {},
): {
  child: ChildProcess;
  exit: Promise<number | string>;
  output: () => string;
} {
  if (!existsSync(file)) throw new Error('run `npm run build:test` first');
  const command = [process.execPath, ...(preload ? ['--import', preload] : []), file];
  // The shell sets its own limit and becomes the service.
  const limit = openFiles === undefined ? '' : `ulimit -n ${openFiles}; `;
  const child = spawn('sh', ['-c', `${limit}exec "$0" "$@"`, ...command], {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout?.on('data', (chunk) => (output += chunk));
  child.stderr?.on('data', (chunk) => (output += chunk));
  const exit = once(child, 'close').then(([code, signal]) => (code ?? signal) as number | string);
  return { child, exit, output: () => output };
}

/** Starts the service on a free port and waits until it is ready. The process is killed when the test ends. */
export async function runServer(
  t: Test,
  env: Record<string, string>,
  options?: ProcessOptions,
): Promise<ServerProcess> {
  // A busy test machine delays the event loop; the service would refuse questions as overloaded.
  const { child, exit, output } = spawnServer({ PORT: '0', MAX_EVENT_LOOP_DELAY_MS: '0', ...env }, options);
  t.teardown(async () => {
    child.kill('SIGKILL');
    await exit;
  });
  const parsed: Record<string, unknown>[] = [];
  let parsedLength = 0;
  /** Parses each line once: some tests look often, at many lines. */
  const lines = () => {
    const rest = output().slice(parsedLength);
    const complete = rest.slice(0, rest.lastIndexOf('\n') + 1);
    parsedLength += complete.length;
    for (const line of complete.split('\n')) if (line.startsWith('{')) parsed.push(JSON.parse(line));
    return [...parsed];
  };
  let ended = false;
  void exit.then(() => (ended = true));
  for (;;) {
    const listening = lines().find(({ msg }) => String(msg).startsWith('Server listening at'));
    if (listening && lines().some(({ msg }) => msg === 'ready')) {
      const url = String(listening.msg).replace('Server listening at ', '');
      return {
        url,
        child,
        exit,
        get lines() {
          return lines();
        },
      };
    }
    if (ended) throw new Error(`the service ended before it was ready:\n${output()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
