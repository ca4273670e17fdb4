import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { Redis } from 'ioredis';
import type { Test } from 'tap';

/** A real `redis-server`, started for one test. */
export interface RedisServer {
  readonly url: string;
  readonly port: number;
  readonly child: ChildProcess;
  /** A connection for the test, to read keys and to inject faults. */
  readonly client: Redis;
  /** Kills the server. */
  stop(): Promise<void>;
  /** Starts the server again on the same port: empty, or with its data if it has `--appendonly`. */
  start(): Promise<void>;
}

const BINARY = process.env.REDIS_SERVER ?? 'redis-server';

/** Reason to skip tests that need Redis; false if it is installed. */
export const noRedis: string | false = isInstalled(BINARY, '--version') ? false : `${BINARY} is not installed`;

/** Returns the arguments of a Redis that loses nothing by `kill -9`. */
export function persistentRedis(t: Test): string[] {
  // `t.testdir` is emptied by each call.
  const dir = mkdtempSync(`${tmpdir()}/redis-`);
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return ['--dir', dir, '--appendonly', 'yes', '--appendfsync', 'always'];
}

/**
 * Starts a Redis on a free port, with further arguments. It has no persistence, unless they include `--appendonly`.
 * It is killed when the test ends.
 */
export async function startRedis(t: Test, ...args: string[]): Promise<RedisServer> {
  const port = await freePort(args.includes('--cluster-enabled'));
  let child: ChildProcess;
  const start = async () => {
    const own = args.includes('--sentinel')
      ? []
      : ['--save', '', '--bind', '127.0.0.1', '--enable-debug-command', 'yes'];
    child = spawn(BINARY, [...args, '--port', String(port), ...own], { stdio: ['ignore', 'pipe', 'ignore'] });
    let isReady = false;
    for await (const text of child.stdout as AsyncIterable<Buffer>) {
      isReady = /Ready to accept connections|Sentinel ID is/.test(String(text));
      if (isReady) break;
    }
    // Its client would wait for ever.
    if (!isReady) throw new Error(`Redis does not start on port ${port}`);
    child.stdout?.resume();
    killWithParent(child);
  };
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGCONT');
    child.kill('SIGKILL');
    await once(child, 'exit');
  };
  await start();
  const url = `redis://127.0.0.1:${port}`;
  const [, password] = args.slice(args.indexOf('--requirepass'));
  const credentials = args.includes('--requirepass') && password !== undefined ? { password } : {};
  const client = new Redis(url, { maxRetriesPerRequest: null, retryStrategy: () => 50, ...credentials });
  client.on('error', () => {});
  t.teardown(async () => {
    client.disconnect();
    await stop();
  });
  return {
    url,
    port,
    client,
    start,
    stop,
    get child() {
      return child;
    },
  };
}

/**
 * Kills a process when this one ends, even by a signal: a shell waits for the end of its input, which is a pipe
 * from this process.
 */
function killWithParent(child: ChildProcess): void {
  const script = `read -r _; kill -9 ${child.pid}`;
  const watcher = spawn('sh', ['-c', script], { stdio: ['pipe', 'ignore', 'ignore'], detached: true });
  child.once('exit', () => watcher.kill('SIGKILL'));
  watcher.unref();
  (watcher.stdin as Socket).unref();
}

/** Returns true if the binary runs. Throws if it does not and `REQUIRE_SERVICES` is set. */
export function isInstalled(binary: string, ...args: string[]): boolean {
  try {
    execFileSync(binary, args, { stdio: 'ignore' });
    return true;
  } catch {
    if (process.env.REQUIRE_SERVICES) throw new Error(`REQUIRE_SERVICES is set, but ${binary} does not run`);
    return false;
  }
}

/** Reason to skip what needs a command that not every machine can install; false if it is there. */
export function skipReason(command: string, argument: string): string | false {
  try {
    execFileSync(command, [argument], { stdio: 'ignore' });
    return false;
  } catch {
    return `${command} is not installed`;
  }
}

/** Distance of the port on which the nodes of a cluster talk to each other, as Redis has it. */
const BUS_OFFSET = 10_000;
/**
 * Ports below those that systems assign by themselves (Linux from 32,768, others from 49,152), with those of the
 * nodes of a cluster.
 */
const PORTS = { first: 10_000, count: 12_768 };

/**
 * Returns a port that is free now; for a node of a cluster, its second port is free, too. Another process of the suite
 * could take a port that the system assigns, for a connection of its own, before the caller listens on it. So the port
 * is outside of that range.
 */
export async function freePort(isNode = false): Promise<number> {
  for (;;) {
    const port = PORTS.first + randomInt(PORTS.count);
    if ((await isFree(port)) && (!isNode || (await isFree(port + BUS_OFFSET)))) return port;
  }
}

/** Returns true if a server can listen on a port. */
async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, '127.0.0.1');
  try {
    await once(server, 'listening');
  } catch {
    return false;
  }
  server.close();
  await once(server, 'close');
  return true;
}
