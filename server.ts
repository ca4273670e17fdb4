import { setImmediate as turn } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import type { FastifyInstance } from 'fastify';
import type { LoadedConfig } from './plugins/config/load.ts';
import { serializeError } from './plugins/http/serialize-error.ts';

/**
 * Starts the service. The only file that reads the environment, listens, and ends the process. Everything else is
 * loaded after the handlers of signals stand: a process with id 1 ignores a signal without a handler.
 */

/** Time to close beyond the drain and the handover: final events, sockets, pools. */
const CLOSE_MS = 5_000;
/** A repeated signal within this time counts as the same one. */
const REPEATED_SIGNAL_MS = 500;

/** V8's factor by which the young generation grows. */
const YOUNG_GROWTH = 2;

/** Reactions to signals. During the start there is nothing to drain, and nothing to reload. */
const react = {
  stop: (_signal: string): void => process.exit(0),
  reload: (): void => {},
};

let firstSignalAt: number | undefined;
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    const now = performance.now();
    // Under `npm start`, Ctrl-C arrives twice: from the terminal and from npm.
    if (firstSignalAt !== undefined && now - firstSignalAt > REPEATED_SIGNAL_MS) process.exit(1);
    if (firstSignalAt !== undefined) return;
    firstSignalAt = now;
    react.stop(signal);
  });
}
process.on('SIGHUP', () => react.reload());

function exitWith(message: string): never {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}

/** Prints no message and no stack of an unexpected error: they may repeat a secret. */
function failStart(error: unknown): never {
  const { name, code, at } = serializeError(error);
  return exitWith(`Cannot start: ${name}${code ? ` ${code}` : ''}${at ? ` at ${at}` : ''}`);
}

async function start(): Promise<void> {
  // Of what a start allocates, nearly all stays. V8 would double its young generation each time that this fills it, to
  // 18 MB, and an idle process would keep them.
  setFlagsFromString('--semi-space-growth-factor=1');
  const { ConfigError, readConfig } = await import('./plugins/config/load.ts');
  const { describeUnknownVariables } = await import('./plugins/config/unknown-variables.ts');
  const loaded = readConfig(process.env);
  const { config, problems, unknownVariables } = loaded;
  if (config === undefined) {
    const hint = unknownVariables.length > 0 ? `\n  - ${describeUnknownVariables(unknownVariables)}` : '';
    return exitWith(new ConfigError(problems).message + hint);
  }
  const { buildApp } = await import('./app.ts');
  const { createLazyValidators } = await import('./plugins/http/lazy-validators.ts');
  const { createLogDestination } = await import('./plugins/http/log-destination.ts');
  // Modules are loaded in one turn of the event loop. The next one handles signals that have arrived in it.
  await turn();
  // If the reader of the log is gone, the service continues. (Pino's own writer to a descriptor retries a
  // broken pipe for ever when the process exits.)
  process.stdout.on('error', () => {});
  const validators = createLazyValidators();
  const logTo = createLogDestination(process.stdout);
  const app = await buildApp(config, { logTo, validators }).catch((error: unknown) => {
    // A setting that only its use shows to be wrong.
    if (error instanceof ConfigError) return exitWith(error.message);
    throw error;
  });
  try {
    await app.openListenSockets(config.host, config.port);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const hint = code === 'EADDRINUSE' ? ' (the port is in use; set PORT to another)' : '';
    return exitWith(`Cannot listen on ${config.host}:${config.port}: ${code}${hint}`);
  }
  await run(app, loaded);
  // Loads the compiler, for which the first question would wait. All schemas together would cost 15 MB.
  await turn();
  validators.loadCompiler();
  setFlagsFromString(`--semi-space-growth-factor=${YOUNG_GROWTH}`);
  app.log.debug('compiler of schemas loaded');
}

/** Reacts to signals, errors and changed files from now on. */
async function run(app: FastifyInstance, loaded: LoadedConfig): Promise<void> {
  const { default: closeWithGrace } = await import('close-with-grace');
  const { createReloader } = await import('./plugins/config/reload.ts');
  const { readConfigInWorker } = await import('./plugins/config/load-in-worker.ts');
  const { describeUnknownVariables } = await import('./plugins/config/unknown-variables.ts');
  const { config, log, metrics, clock, audit } = app;
  const warnOfUnknown = ({ unknownVariables }: LoadedConfig) => {
    if (unknownVariables.length === 0) return;
    log.warn({ variables: unknownVariables.map(({ name }) => name) }, describeUnknownVariables(unknownVariables));
  };
  const reloader = createReloader({
    async load() {
      const found = await readConfigInWorker(process.env);
      warnOfUnknown(found);
      return found;
    },
    apply: app.reloadConfig,
    files: loaded.files,
    clock,
    onReloaded(report) {
      metrics.configReloads.inc({ outcome: 'applied' });
      audit.configReloaded(report, app.llm.models);
    },
    onRefused(problems) {
      metrics.configReloads.inc({ outcome: 'refused' });
      audit.configRefused(problems);
    },
  });
  const { close } = closeWithGrace(
    {
      delay: config.drainMs + (config.redis ? config.drainHandoverMs : 0) + CLOSE_MS,
      logger: false,
      skip: ['SIGHUP', 'SIGINT', 'SIGTERM'],
    },
    async ({ err }) => {
      if (err) log.fatal({ err }, 'uncaught error; the service closes');
      // Before `close()`, which refuses connections immediately: during the drain, probes and readers are served.
      await app.lifecycle.drain();
      reloader.close();
      await app.close();
      log.info('closed');
    },
  );
  process.off('uncaughtException', failStart);
  react.reload = reloader.reload;
  react.stop = (signal) => {
    log.info({ signal }, 'signal received; closing');
    void close();
  };
  warnOfUnknown(loaded);
  log.info({ models: app.llm.models, node: process.version }, 'ready');
}

process.on('uncaughtException', failStart);
await start().catch(failStart);
