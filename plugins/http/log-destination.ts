import type { Writable } from 'node:stream';
import type { DestinationStream } from 'pino';

export interface LogDestination extends DestinationStream {
  /** Number of lines dropped until now. */
  readonly droppedLines: number;
}

/** Bytes of lines that may wait for the reader of the log. */
const MAX_WAITING_BYTES = 1_048_576;
/** Pino's number for `warn`. */
const WARN = 40;

/**
 * Creates a log destination with a bounded queue. If its reader stalls, further lines are dropped and counted. When
 * the queue has been read, one line says how many were dropped.
 */
export function createLogDestination(output: Writable, maxWaitingBytes = MAX_WAITING_BYTES): LogDestination {
  let droppedLines = 0;
  let reportedLines = 0;
  output.on('drain', () => {
    const dropped = droppedLines - reportedLines;
    if (dropped === 0) return;
    reportedLines = droppedLines;
    const msg = 'log lines dropped; standard output was not read fast enough';
    output.write(`${JSON.stringify({ level: WARN, time: Date.now(), pid: process.pid, dropped, msg })}\n`);
  });
  return {
    get droppedLines() {
      return droppedLines;
    },
    write(line) {
      if (output.writableLength >= maxWaitingBytes) droppedLines += 1;
      else output.write(line);
    },
  };
}
