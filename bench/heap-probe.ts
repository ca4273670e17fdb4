import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Loaded into a process before its own script: answers the message `heap` of the parent process. */

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;

process.on('message', (message) => {
  if (message !== 'heap') return;
  gc();
  gc();
  const { heapUsed, external } = process.memoryUsage();
  process.send?.(heapUsed + external);
});
// The channel does not keep the process alive.
process.channel?.unref();
