import type { Cluster } from '../../../redis/index.ts';
import type { RunningCommands } from '../running.ts';

export interface RunningStreamsOptions {
  readonly cluster: Cluster;
  readonly running: RunningCommands;
}

/** Most names that are sent together. */
const BATCH = 500;

/** Keeps the names of the streams of this replica in Redis up to date. Those that Redis misses are sent again. */
export class RunningStreams {
  readonly #options: RunningStreamsOptions;
  readonly #names = new Map<string, Promise<void>>();
  readonly #unadded = new Set<string>();

  constructor(options: RunningStreamsOptions) {
    this.#options = options;
    const { lease, connection } = options.cluster;
    lease.onRenewed(() => this.#sendUnadded());
    /** Redis was emptied, or has older data. */
    const onLost = () => {
      for (const id of this.#names.keys()) this.#unadded.add(id);
    };
    lease.onMissing(onLost);
    connection.onAvailable(onLost);
    connection.onNodesChanged(onLost);
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
    // A name that is left is that of a stream that has ended, and goes with this replica.
    this.#options.running.remove(id).catch(() => {});
  }

  /** Leaves no trace in Redis if this replica produces nothing. Else another one ends what it leaves. Never rejects. */
  async close(): Promise<void> {
    const { cluster, running } = this.#options;
    if (this.#names.size === 0) await running.forget(cluster.replica).catch(() => {});
  }

  #sendUnadded(): void {
    if (this.#unadded.size > 0) void this.#add([...this.#unadded].slice(0, BATCH));
  }

  #add(ids: readonly string[]): Promise<void> {
    return this.#options.running.add(ids).then(
      () => {
        for (const id of ids) this.#unadded.delete(id);
      },
      () => {}, // Sent again when the lease is renewed.
    );
  }
}
