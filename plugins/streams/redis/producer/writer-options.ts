import type { Clock } from '../../../clock.ts';
import type { Lease } from '../../../redis/lease.ts';
import type { MemoryLog } from '../../memory/log.ts';
import type { StreamCommands, StreamKeys } from '../commands.ts';

/** What a `LogWriter` writes, where to, and whom it tells. */
export interface WriterOptions {
  readonly memory: MemoryLog;
  readonly names: StreamKeys;
  readonly records: StreamCommands;
  readonly clock: Clock;
  /** Milliseconds between two writes, at least. */
  readonly flushMs: number;
  /** The number of this producer. */
  readonly epoch: number;
  /** Whether Redis knows the stream. */
  readonly isSynced: boolean;
  /** The sign of this process's life: while it is held others leave its logs alone. */
  readonly lease: Lease;
  /** Redis does not have what readers have, and is to be told when it can be: see `resync`. */
  onUnsynced(): void;
  /** Another replica is the producer now; nothing more will be written. */
  onFenced(): void;
  /** The end is written, or nothing will ever be. */
  onDone(): void;
}
