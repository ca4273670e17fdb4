import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import type { Test } from 'tap';

/** The built service as a process of its own, as it runs in production. */

export interface Running {
  readonly url: string;
  readonly child: ChildProcess;
  /** Log lines so far. */
  readonly lines: Record<string, unknown>[];
  /** Resolves with the exit code, or the signal that ended it. */
  readonly exit: Promise<number | string>;
}

const SERVER = 'build/server.js';

export function spawnServer(env: Record<string, string>): {
  child: ChildProcess;
  exit: Promise<number | string>;
  output: () => string;
} {
  if (!existsSync(SERVER)) throw new Error('run `npm run build:test` first');
  const child = spawn(process.execPath, [SERVER], {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  child.stdout?.on('data', (chunk) => (output += chunk));
  child.stderr?.on('data', (chunk) => (output += chunk));
  const exit = once(child, 'close').then(([code, signal]) => (code ?? signal) as number | string);
  return { child, exit, output: () => output };
}

/** Starts the service on a free port and waits until it is ready. */
export async function runServer(t: Test, env: Record<string, string>): Promise<Running> {
  // A busy machine is no overload: the tests beside it may take the core for longer than a service would bear.
  const { child, exit, output } = spawnServer({ PORT: '0', MAX_EVENT_LOOP_DELAY_MS: '0', ...env });
  t.teardown(async () => {
    child.kill('SIGKILL');
    await exit;
  });
  const lines = () =>
    output()
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  let over = false;
  void exit.then(() => (over = true));
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
    if (over) throw new Error(`the service ended:\n${output()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
