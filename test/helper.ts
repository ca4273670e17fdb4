import type { FastifyInstance } from 'fastify';
import type { Test } from 'tap';
import { buildApp, type Overrides } from '../app.ts';
import { loadConfig } from '../plugins/config/load.ts';

/** The service as the tests want it: on a free port, silent, and closed when the test ends. */

export interface BuildOptions extends Overrides {
  /** Environment variables, in place of the machine's. */
  readonly env?: Record<string, string>;
}

export async function build(t: Test, { env = {}, ...overrides }: BuildOptions = {}): Promise<FastifyInstance> {
  const config = loadConfig({
    PORT: '0',
    LOG_LEVEL: overrides.logTo ? 'info' : 'silent',
    DRAIN_MS: '0',
    DRAIN_HANDOVER_MS: '0',
    // A browser beside it may take the core for longer than a service would bear.
    MAX_EVENT_LOOP_DELAY_MS: '0',
    ...env,
  });
  const app = await buildApp(config, overrides);
  t.teardown(() => app.close());
  return app;
}

/** A listening service and its base URL. */
export async function serve(t: Test, options: BuildOptions = {}): Promise<{ app: FastifyInstance; url: string }> {
  const app = await build(t, options);
  const url = await app.listen({ port: 0, host: '127.0.0.1' });
  return { app, url };
}

/** The environment of a service whose only provider is a Bella at `url`. */
export function bellaAt(url: string, env: Record<string, string> = {}): Record<string, string> {
  return { BELLA_API_KEY: 'test-key', BELLA_BASE_URL: `${url}/v1`, DEFAULT_MODEL: 'bella/gpt-4o', ...env };
}

/** Polls this often without a pause, and then every few milliseconds: a long wait leaves the core to others. */
const EAGER_POLLS = 200;
const POLL_MS = 5;

/**
 * Waits until `condition` holds, and names the condition if it never does. The time limit is far above what
 * any condition takes, so that it catches a hang and never a slow machine.
 */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
  timeoutMs = 30_000,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  for (let polls = 0; !(await condition()); polls += 1) {
    if (Date.now() > deadline) throw new Error(`timed out after ${timeoutMs} ms, waiting until: ${what}`);
    await new Promise((resolve) => (polls < EAGER_POLLS ? setImmediate(resolve) : setTimeout(resolve, POLL_MS)));
  }
}
