import { createHash } from 'node:crypto';
import { Writable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import type { Test } from 'tap';
import { buildApp, type Overrides } from '../app.ts';
import { loadConfig } from '../plugins/config/load.ts';

/** Helpers that many tests share: a running service, its configuration, its log, and waiting. */

export interface BuildOptions extends Overrides {
  /** Environment variables of the service. Those of the machine are not read. */
  readonly env?: Record<string, string>;
}

/** Builds a service that is silent, does not drain, and is closed when the test ends. It does not listen. */
export async function build(t: Test, { env = {}, ...overrides }: BuildOptions = {}): Promise<FastifyInstance> {
  const config = loadConfig({
    PORT: '0',
    LOG_LEVEL: overrides.logTo ? 'info' : 'silent',
    DRAIN_MS: '0',
    DRAIN_HANDOVER_MS: '0',
    // A busy test machine delays the event loop; the service would refuse questions as overloaded.
    MAX_EVENT_LOOP_DELAY_MS: '0',
    ...env,
  });
  const app = await buildApp(config, { usageTo: ignored(), ...overrides });
  t.teardown(() => app.close());
  return app;
}

/** Starts a service like `build`, listening on a free port, and returns its base URL. */
export async function serve(t: Test, options: BuildOptions = {}): Promise<{ app: FastifyInstance; url: string }> {
  const app = await build(t, options);
  const url = await app.listen({ port: 0, host: '127.0.0.1' });
  return { app, url };
}

/** Returns a stream that forgets what is written to it. */
function ignored(): Writable {
  return new Writable({ write: (_bytes, _encoding, done) => done() });
}

/** Returns the environment of a service whose only provider is a Bella at `url`. */
export function bellaAt(url: string, env: Record<string, string> = {}): Record<string, string> {
  return { BELLA_API_KEY: 'test-key', BELLA_BASE_URL: `${url}/v1`, DEFAULT_MODEL: 'bella/gpt-4o', ...env };
}

/** Writes a configuration file into the test's directory and returns its path, for `CONFIG_FILE`. */
export function writeConfig(t: Test, yaml: string): string {
  return `${t.testdir({ 'sluice.yaml': yaml })}/sluice.yaml`;
}

/** Returns the hash of an API key, in the format of a configuration file. */
export function sha256(key: string): string {
  return createHash('sha256').update(key).digest('hex');
}

/** Returns the header that authenticates a request with an API key or a token. */
export function bearer(token: string): { authorization: string } {
  return { authorization: `Bearer ${token}` };
}

/** Returns a stream for `logTo`, and a function that returns everything that was logged to it. */
export function captureLog(): { logTo: Writable; log: () => string } {
  let log = '';
  const logTo = new Writable({
    write(bytes, _, done) {
      log += bytes;
      done();
    },
  });
  return { logTo, log: () => log };
}

/** Returns a promise, and the function that resolves it. */
export function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((onResolve) => {
    resolve = onResolve;
  });
  return { promise, resolve };
}

/** Number of polls without a pause. */
const EAGER_POLLS = 200;
/** Pause between later polls, so that a long wait leaves the CPU to others. */
const POLL_MS = 5;

/**
 * Waits until `condition` holds; throws an error that names `what` if it does not. The time limit is far above
 * what any condition takes: it detects a hang, and a slow machine does not reach it.
 */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
  timeoutMs = 30_000,
): Promise<void> {
  // Some tests replace the clock of Date.
  const deadline = performance.now() + timeoutMs;
  for (let polls = 0; !(await condition()); polls += 1) {
    if (performance.now() > deadline) throw new Error(`timed out after ${timeoutMs} ms, waiting until: ${what}`);
    await new Promise((resolve) => (polls < EAGER_POLLS ? setImmediate(resolve) : setTimeout(resolve, POLL_MS)));
  }
}
