import type { Cluster } from '../../../redis/index.ts';
import type { RunningCommands } from '../running.ts';

export interface RunningStreamsOptions {
  readonly cluster: Cluster;
  readonly running: RunningCommands;
  /** All streams that this replica produces, by id. */
  readonly logs: ReadonlyMap<string, unknown>;
}

/** Most names that are sent together. */
const BATCH = 500;

/** Keeps the names of the streams of this replica in Redis up to date. What Redis misses is sent again. */
export class RunningStreams {
  readonly #options: RunningStreamsOptions;
  readonly #unadded = new Set<string>();
  readonly #unremoved = new Set<string>();

  constructor(options: RunningStreamsOptions) {
    this.#options = options;
    const { lease, connection } = options.cluster;
    lease.onRenewed(() => this.#sendAll());
    /** Redis was emptied, or has older data. */
    const onLost = () => {
      for (const id of options.logs.keys()) this.#unadded.add(id);
    };
    lease.onMissing(onLost);
    connection.onAvailable(onLost);
  }

  add(id: string): void {
    this.#unadded.add(id);
    this.#add([id]);
  }

  remove(id: string): void {
    this.#unadded.delete(id);
    this.#unremoved.add(id);
    this.#remove([id]);
  }

  /** Leaves no trace in Redis if this replica produces nothing. Else another one ends what it leaves. Never rejects. */
  async close(): Promise<void> {
    const { cluster, running, logs } = this.#options;
    if (logs.size === 0) await running.forget(cluster.replica).catch(() => {});
  }

  #sendAll(): void {
    const next = (ids: ReadonlySet<string>) => [...ids].slice(0, BATCH);
    if (this.#unadded.size > 0) this.#add(next(this.#unadded));
    if (this.#unremoved.size > 0) this.#remove(next(this.#unremoved));
  }

  #add(ids: readonly string[]): void {
    this.#options.running.add(ids).then(
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
