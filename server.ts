import closeWithGrace from 'close-with-grace';
import { buildApp } from './app.ts';
import { ConfigError, loadConfig } from './plugins/config/load.ts';

/** Starts the service. The only file that reads the environment, listens, and may end the process. */

/** What closing may take beyond the drain: last words, sockets, pools. */
const CLOSE_MS = 5_000;

function configOrExit() {
  try {
    return loadConfig(process.env);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    process.stderr.write(`${error.message}\n`);
    process.exit(1);
  }
}

const config = configOrExit();
const app = await buildApp(config);

closeWithGrace({ delay: config.drainMs + CLOSE_MS, logger: false }, async ({ signal, err }) => {
  if (err) app.log.fatal({ err }, 'unexpected fault');
  else app.log.info({ signal }, 'closing');
  // Before `close()`, which refuses connections at once: probes and readers are still answered.
  await app.lifecycle.drain();
  await app.close();
  app.log.info('closed');
});

try {
  await app.openListeners(config.host, config.port);
} catch (error) {
  const { code } = error as NodeJS.ErrnoException;
  process.stderr.write(`Cannot listen on ${config.host}:${config.port}: ${code}\n`);
  process.exit(1);
}
if (!isLoopback(config.host)) {
  app.log.warn({ host: config.host }, 'anybody who reaches this address can ask: no keys are configured');
}
app.log.info({ models: app.llm.models, node: process.version }, 'ready');

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}
