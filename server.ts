import closeWithGrace from 'close-with-grace';
import { buildApp } from './app.ts';
import { ConfigError, loadConfig } from './plugins/config/load.ts';
import { createLogDestination } from './plugins/http/log-destination.ts';

/** Starts the service. The only file that reads the environment, listens, and ends the process. */

/** Time to close beyond the drain and the handover: final events, sockets, pools. */
const CLOSE_MS = 5_000;
/** A repeated signal within this time counts as the same one. */
const REPEATED_SIGNAL_MS = 500;

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
// If the reader of the log is gone, the service continues. (Pino's own writer to a descriptor retries a
// broken pipe for ever when the process exits.)
process.stdout.on('error', () => {});
const app = await buildApp(config, { logTo: createLogDestination(process.stdout) });

const { close } = closeWithGrace(
  {
    delay: config.drainMs + (config.redis ? config.drainHandoverMs : 0) + CLOSE_MS,
    logger: false,
    skip: ['SIGHUP', 'SIGINT', 'SIGTERM'],
  },
  async ({ err }) => {
    if (err) app.log.fatal({ err }, 'uncaught error; the service closes');
    // Before `close()`, which refuses connections immediately: during the drain, probes and readers are served.
    await app.lifecycle.drain();
    await app.close();
    app.log.info('closed');
  },
);

process.on('SIGHUP', () => {
  try {
    app.reloadConfig(loadConfig(process.env));
    app.log.info({ models: app.llm.models }, 'configuration reloaded: client keys, tokens and models');
  } catch (error) {
    const { problems, message } = error as Partial<ConfigError>;
    app.log.error({ problems: problems ?? [message] }, 'configuration not applied; nothing has changed');
  }
});

let firstSignalAt: number | undefined;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    const now = performance.now();
    // Under `npm start`, Ctrl-C arrives twice: from the terminal and from npm.
    if (firstSignalAt !== undefined && now - firstSignalAt > REPEATED_SIGNAL_MS) process.exit(1);
    if (firstSignalAt !== undefined) return;
    firstSignalAt = now;
    app.log.info({ signal }, 'signal received; closing');
    void close();
  });
}

try {
  await app.openListenSockets(config.host, config.port);
} catch (error) {
  const { code } = error as NodeJS.ErrnoException;
  const hint = code === 'EADDRINUSE' ? ' (the port is in use; set PORT to another)' : '';
  process.stderr.write(`Cannot listen on ${config.host}:${config.port}: ${code}${hint}\n`);
  process.exit(1);
}
app.log.info({ models: app.llm.models, node: process.version }, 'ready');
