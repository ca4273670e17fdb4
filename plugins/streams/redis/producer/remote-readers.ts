import type { Clock } from '../../../clock.ts';
import type { Cluster } from '../../../redis/index.ts';
import type { LogConsumer, MemoryLog } from '../../memory/log.ts';
import { FOLLOW, type Follow, GONE, NEWS } from '../messages.ts';

/** Silence after which a replica reads no more. */
const READER_TIMEOUT_MS = 3_500;

/**
 * The producer's view of readers elsewhere: each replica that has some follows a log as one reader
 * would, so that it counts for grace and pace, and is told when there is news.
 */
export class RemoteReaders {
  readonly #shared: Cluster;
  readonly #clock: Clock;
  readonly #find: (id: string) => MemoryLog | undefined;
  readonly #known = new Map<string, RemoteReader>();
  readonly #news = new Map<string, Set<string>>();
  #cancelSweep: (() => void) | undefined;

  constructor(shared: Cluster, clock: Clock, find: (id: string) => MemoryLog | undefined) {
    this.#shared = shared;
    this.#clock = clock;
    this.#find = find;
    shared.mailbox.on(FOLLOW, (from, body) => {
      for (const [id, readers, position] of body as Follow) this.#onFollow(from, id, readers, position);
    });
  }

  close(): void {
    this.#cancelSweep?.();
  }

  #onFollow(from: string, id: string, readers: number, position: number): void {
    const key = `${from} ${id}`;
    const known = this.#known.get(key);
    if (readers === 0) {
      this.#drop(key);
      return;
    }
    const log = known?.log ?? this.#find(id);
    if (log === undefined) {
      // It has ended, and the other may have missed that; or it never will be written again.
      this.#shared.mailbox.send(from, GONE, id);
      return;
    }
    const reader = known ?? new RemoteReader(log, () => this.#tell(from, id));
    reader.position = position;
    reader.seenAt = this.#clock.now();
    if (known === undefined) {
      this.#known.set(key, reader);
      log.addConsumer(reader);
      this.#cancelSweep ??= this.#clock.after(READER_TIMEOUT_MS / 2, () => this.#sweep());
    } else log.onProgress();
    // It may have missed what it was told.
    if (log.length > position || log.ended) reader.wake();
  }

  #drop(key: string): void {
    const reader = this.#known.get(key);
    this.#known.delete(key);
    reader?.log.removeConsumer(reader);
  }

  #sweep(): void {
    const now = this.#clock.now();
    // Nobody could be heard while Redis was away: all have time to speak again.
    const isDeaf = this.#shared.lease.renewedForMs < READER_TIMEOUT_MS;
    for (const [key, reader] of this.#known) {
      if (isDeaf) reader.seenAt = now;
      else if (reader.seenAt < now - READER_TIMEOUT_MS) this.#drop(key);
    }
    this.#cancelSweep =
      this.#known.size === 0 ? undefined : this.#clock.after(READER_TIMEOUT_MS / 2, () => this.#sweep());
  }

  /** One message a turn and replica, whatever the number of logs. */
  #tell(replica: string, id: string): void {
    if (this.#news.size === 0) setImmediate(() => this.#flush());
    const ids = this.#news.get(replica) ?? new Set();
    this.#news.set(replica, ids.add(id));
  }

  #flush(): void {
    for (const [replica, ids] of this.#news) this.#shared.mailbox.send(replica, NEWS, [...ids]);
    this.#news.clear();
  }
}

class RemoteReader implements LogConsumer {
  position = 0;
  seenAt = 0;
  readonly log: MemoryLog;
  readonly wake: () => void;

  constructor(log: MemoryLog, wake: () => void) {
    this.log = log;
    this.wake = wake;
  }
}
