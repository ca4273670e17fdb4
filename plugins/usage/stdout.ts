import type { Writable } from 'node:stream';
import { type Clock, waitAtMost } from '../clock.ts';
import { codeOf, type Delivery } from './delivery.ts';
import type { Destination } from './destination.ts';

/** Bytes of standard output that may wait for its reader: about 10,000 records. Log lines are dropped earlier. */
const MAX_WAITING_BYTES = 4_194_304;
/** Longest wait for the reader at the end of the process. */
const CLOSE_MS = 1_000;

export interface StdoutOptions {
  /** Standard output. Its errors must be handled elsewhere. */
  readonly output: Writable;
  readonly clock: Clock;
  readonly delivery: Delivery;
  readonly maxWaitingBytes?: number;
}

/** Writes records to standard output, each as one line among those of the log. */
export function createStdoutDestination(options: StdoutOptions): Destination {
  const { output, clock, delivery, maxWaitingBytes = MAX_WAITING_BYTES } = options;
  return {
    write(record) {
      if (output.destroyed) return delivery.onDropped(1, 'closed');
      if (output.writableLength >= maxWaitingBytes) return delivery.onDropped(1, 'not_read');
      output.write(`${record}\n`, (error) => {
        if (error) delivery.onDropped(1, codeOf(error));
        else delivery.onWritten(1);
      });
    },
    async close() {
      if (output.destroyed || output.writableLength === 0) return [];
      const written = new Promise<void>((resolve) => output.write('', () => resolve()));
      await waitAtMost(clock, CLOSE_MS, written);
      return [];
    },
  };
}
