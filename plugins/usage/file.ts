import { type FileHandle, open, stat } from 'node:fs/promises';
import type { Clock } from '../clock.ts';
import { codeOf, type Delivery } from './delivery.ts';
import { Backlog, type Destination } from './destination.ts';

/** Records of one write. */
const BATCH = 500;
/** Pause after a failed write. */
const RETRY_MS = 1_000;
const LINE_BREAK = 0x0a;

export interface FileOptions {
  readonly path: string;
  readonly clock: Clock;
  readonly delivery: Delivery;
  readonly backlog?: Backlog;
}

/** Lines that are being written. */
interface Batch {
  readonly bytes: Buffer;
  readonly records: number;
  /** Bytes that the file has. */
  written: number;
}

/**
 * Appends records to a file. A file that was renamed or deleted is opened again under its path, so that log rotation
 * needs no signal.
 * @throws the error of the system if the file cannot be opened
 */
export async function createFileDestination(options: FileOptions): Promise<Destination> {
  const { path, clock, delivery, backlog = new Backlog() } = options;
  let file = await openForAppend(path);
  let batch: Batch | undefined;
  let running: Promise<void> | undefined;
  let cancelRetry = () => {};
  let isClosed = false;

  /** Writes until nothing waits. Returns false after a failure. */
  const writeAll = async (): Promise<boolean> => {
    try {
      for (;;) {
        batch ??= nextBatch(backlog);
        if (batch === undefined) return true;
        if (await wasMoved(file, path)) {
          const next = await openForAppend(path);
          await file.close().catch(() => {});
          file = next;
          // The line that the old file has a part of begins again.
          batch.written = startOfLine(batch);
        }
        const { bytesWritten } = await file.write(batch.bytes, batch.written);
        batch.written += bytesWritten;
        if (batch.written < batch.bytes.length) continue;
        delivery.onWritten(batch.records);
        batch = undefined;
      }
    } catch (error) {
      delivery.onDelayed(codeOf(error));
      return false;
    }
  };
  const run = async () => {
    const isWritten = await writeAll();
    running = undefined;
    if (isClosed) return;
    if (!isWritten) cancelRetry = clock.after(RETRY_MS, start);
    else if (backlog.length > 0) start();
  };
  function start(): void {
    cancelRetry();
    running ??= run();
  }

  return {
    write(record) {
      if (!backlog.push(record)) return delivery.onDropped(1, 'full');
      // After a failure, the retry writes what waits.
      if (batch === undefined) start();
    },
    async close() {
      isClosed = true;
      cancelRetry();
      await running;
      await writeAll();
      await file.close().catch(() => {});
      return [...unwrittenRecords(batch), ...backlog.takeAll()];
    },
  };
}

function nextBatch(backlog: Backlog): Batch | undefined {
  const records = backlog.take(BATCH);
  if (records.length === 0) return undefined;
  return { bytes: Buffer.from(`${records.join('\n')}\n`), records: records.length, written: 0 };
}

/** Returns the start of the first line that the file does not have whole. */
function startOfLine({ bytes, written }: Batch): number {
  return written === 0 ? 0 : bytes.lastIndexOf(LINE_BREAK, written - 1) + 1;
}

/** Returns the records of a batch that the file does not have, or has a part of. */
function unwrittenRecords(batch: Batch | undefined): string[] {
  if (batch === undefined) return [];
  return batch.bytes.toString('utf8', startOfLine(batch)).split('\n').slice(0, -1);
}

/** Returns true if the path is no longer that of the open file. */
async function wasMoved(file: FileHandle, path: string): Promise<boolean> {
  try {
    const [opened, atPath] = await Promise.all([file.stat(), stat(path)]);
    return opened.ino !== atPath.ino || opened.dev !== atPath.dev;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return true;
    throw error;
  }
}

/** Opens a file. If a process was killed while it wrote the last line, that line ends first. */
async function openForAppend(path: string): Promise<FileHandle> {
  const file = await open(path, 'a+', 0o640);
  try {
    const stats = await file.stat();
    if (!stats.isFile() || stats.size === 0) return file;
    const { buffer } = await file.read({ buffer: Buffer.alloc(1), position: stats.size - 1 });
    if (buffer[0] !== LINE_BREAK) await file.write('\n');
    return file;
  } catch (error) {
    await file.close().catch(() => {});
    throw error;
  }
}
