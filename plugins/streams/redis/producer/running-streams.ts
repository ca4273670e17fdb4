import type { Cluster } from '../../../redis/index.ts';
import type { RunningCommands } from '../running.ts';

export interface RunningStreamsOptions {
  readonly cluster: Cluster;
  readonly running: RunningCommands;
}

/** Most names that are sent together. */
const BATCH = 500;

/** Keeps the names of the streams of this replica in Redis up to date. What Redis misses is sent again. */
export class RunningStreams {
  readonly #options: RunningStreamsOptions;
  readonly #names = new Map<string, Promise<void>>();
  readonly #unadded = new Set<string>();
  readonly #unremoved = new Set<string>();

  constructor(options: RunningStreamsOptions) {
    this.#options = options;
    const { lease, connection } = options.cluster;
    lease.onRenewed(() => this.#sendAll());
    /** Redis was emptied, or has older data. */
    const onLost = () => {
      for (const id of this.#names.keys()) this.#unadded.add(id);
    };
    lease.onMissing(onLost);
    connection.onAvailable(onLost);
  }

  /** Adds a stream, once. Resolves when Redis has its name, or cannot be told now. Never rejects. */
  add(id: string): Promise<void> {
    const known = this.#names.get(id);
    if (known) return known;
    this.#unadded.add(id);
    const added = this.#add([id]);
    this.#names.set(id, added);
    return added;
  }

  remove(id: string): void {
    this.#names.delete(id);
    this.#unadded.delete(id);
    this.#unremoved.add(id);
    this.#remove([id]);
  }

  /** Leaves no trace in Redis if this replica produces nothing. Else another one ends what it leaves. Never rejects. */
  async close(): Promise<void> {
    const { cluster, running } = this.#options;
    if (this.#names.size === 0) await running.forget(cluster.replica).catch(() => {});
  }

  #sendAll(): void {
    const next = (ids: ReadonlySet<string>) => [...ids].slice(0, BATCH);
    if (this.#unadded.size > 0) void this.#add(next(this.#unadded));
    if (this.#unremoved.size > 0) this.#remove(next(this.#unremoved));
  }

  #add(ids: readonly string[]): Promise<void> {
    return this.#options.running.add(ids).then(
      () => {
        for (const id of ids) this.#unadded.delete(id);
      },
      () => {}, // Sent again when the lease is renewed.
    );
  }

  #remove(ids: readonly string[]): void {
    this.#options.running.remove(ids).then(
      () => {
        for (const id of ids) this.#unremoved.delete(id);
      },
      () => {}, // Sent again when the lease is renewed.
    );
  }
}
