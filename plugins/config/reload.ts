import type { Clock } from '../clock.ts';
import { createFileWatch, type FileDigests } from './files.ts';
import type { ReloadReport } from './index.ts';
import type { LoadedConfig } from './load.ts';
import { RestartRequired } from './restart.ts';
import type { Config } from './schema.ts';

/** Reloads the configuration of a running service: by request, and when one of its files has changed. */

export interface ReloaderOptions {
  /** Reads all sources. Does not throw for an invalid configuration. */
  load(): Promise<LoadedConfig>;
  /**
   * Applies a configuration.
   * @throws RestartRequired if the running service cannot take it
   */
  apply(config: Config): ReloadReport;
  /** The files of the running configuration. */
  readonly files: FileDigests;
  readonly clock: Clock;
  /** Called after each reload. Must not throw. */
  onReloaded(report: ReloadReport): void;
  /** Called with the reasons if a reload has changed nothing. Must not throw. */
  onRefused(problems: readonly string[]): void;
}

export interface Reloader {
  /** Starts a reload. If one is running, another one follows it, so that the last state of the sources wins. */
  reload(): void;
  /** Ends the watch. */
  close(): void;
}

/** Milliseconds between two looks at the files. A change is applied if two looks in a row find the same content. */
export const WATCH_INTERVAL_MS = 2_000;

/** Creates the reloader and starts to watch the files. */
export function createReloader({ load, apply, clock, onReloaded, onRefused, ...options }: ReloaderOptions): Reloader {
  const readDigests = createFileWatch();
  let files = options.files;
  let isRunning = false;
  let isRequested = false;
  let isClosed = false;

  /** `expected` are the contents that led to the reload. If they have changed since, the next look decides. */
  const reloadOnce = async (expected: FileDigests | undefined) => {
    try {
      const { config, problems, files: read } = await load();
      if (expected && Object.keys(read).some((path) => path in expected && read[path] !== expected[path])) return;
      files = read;
      if (config === undefined) onRefused(problems);
      else onReloaded(apply(config));
    } catch (error) {
      onRefused([error instanceof RestartRequired ? error.message : `cannot be loaded (${nameOf(error)})`]);
    }
  };
  const reload = async (expected?: FileDigests) => {
    isRequested = true;
    if (isRunning) return;
    isRunning = true;
    for (let contents = expected; isRequested && !isClosed; contents = undefined) {
      isRequested = false;
      await reloadOnce(contents);
    }
    isRunning = false;
  };

  let candidate = '';
  /** Editors and Kubernetes replace files by rename, others write them in place: only contents are compared. */
  const look = async () => {
    const current = await readDigests(files);
    if (current === undefined || isRunning) return;
    const found = JSON.stringify(current);
    const isChanged = found !== JSON.stringify(files);
    const isSettled = found === candidate;
    candidate = found;
    if (isChanged && isSettled) await reload(current);
  };
  const schedule = () =>
    clock.after(WATCH_INTERVAL_MS, () => {
      // Not even an unexpected error may end the watch, or the process.
      void look()
        .catch(() => {})
        .then(() => {
          if (!isClosed) cancel = schedule();
        });
    });
  let cancel = schedule();

  return {
    reload: () => void reload(),
    close() {
      isClosed = true;
      cancel();
    },
  };
}

function nameOf(error: unknown): string {
  const { name, code } = error as NodeJS.ErrnoException;
  return code ?? name;
}
