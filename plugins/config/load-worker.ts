import { parentPort, workerData } from 'node:worker_threads';
import { readConfig } from './load.ts';
import type { Environment } from './variables.ts';

/** The code of the thread that `load-in-worker.ts` starts. */
parentPort?.postMessage(readConfig(workerData as Environment));
