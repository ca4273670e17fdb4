import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { type LoadedConfig, readConfig } from './load.ts';
import type { Environment } from './variables.ts';

/** The compiled file of the thread, or its source if Node runs the sources. */
const WORKER = new URL(`./load-worker${import.meta.url.slice(-3)}`, import.meta.url);

/**
 * Reads the configuration in a thread of its own: parsing the largest allowed file takes more than a second, in
 * which no stream would get an event. Reads it in this thread if no other can be started.
 */
export async function readConfigInWorker(env: Environment): Promise<LoadedConfig> {
  try {
    // A plain copy, because the variables of this process cannot be sent to a thread.
    const worker = new Worker(WORKER, { workerData: { ...env }, stdout: true, stderr: true });
    try {
      // Rejects if the thread reports an error.
      const [loaded] = await once(worker, 'message');
      return loaded as LoadedConfig;
    } finally {
      await worker.terminate();
    }
  } catch {
    return readConfig(env);
  }
}
