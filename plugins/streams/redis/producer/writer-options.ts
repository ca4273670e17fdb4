import type { Clock } from '../../../clock.ts';
import type { RedisConnection } from '../../../redis/connection.ts';
import type { Lease } from '../../../redis/lease.ts';
import type { MemoryLog } from '../../memory/log.ts';
import type { StreamCommands, StreamKeys } from '../commands.ts';
import type { CommitGroup } from './commit-group.ts';

export interface WriterOptions {
  readonly memory: MemoryLog;
  readonly keys: StreamKeys;
  readonly commands: StreamCommands;
  readonly clock: Clock;
  /** Decides when the log is written. */
  readonly commits: CommitGroup;
  /** Epoch of this producer. */
  readonly epoch: number;
  /** True if Redis has the stream. */
  readonly isSynced: boolean;
  /** While this process holds its lease, other replicas do not take over its logs. */
  readonly lease: Pick<Lease, 'isHeld'>;
  /** False while a reader that is cut off could not resume on another replica. */
  readonly connection: Pick<RedisConnection, 'isAvailable'>;
  readonly events: WriterEvents;
}

/** Events of a writer. */
export interface WriterEvents {
  /** Redis lacks a part of what readers have. Call `resync` when Redis is available. */
  onUnsynced(): void;
  /** Redis has told what it has of the log, and has created it again if it was missing. */
  onCompared(): void;
  /** Another replica is the producer. Nothing more will be written. */
  onFenced(): void;
  /** The terminal is written, or can no longer be written. */
  onDone(): void;
}
