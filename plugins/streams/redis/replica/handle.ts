import type { AppendSlice, EndableReader, ReadableLog, StreamInfo } from '../../types.ts';
import type { Producer } from '../commands.ts';
import type { ReplicaWatcher } from './watcher.ts';

/** A light handle to a stream of another replica. The log is copied only when it is read. */
export class ReplicaHandle implements ReadableLog {
  readonly info: StreamInfo;
  readonly #producer: Producer;
  readonly #watcher: ReplicaWatcher;

  constructor(info: StreamInfo, producer: Producer, watcher: ReplicaWatcher) {
    this.info = info;
    this.#producer = producer;
    this.#watcher = watcher;
  }

  get resumable(): boolean {
    return this.info.graceMs > 0 && this.#watcher.canResume;
  }

  async read(position: number): Promise<EndableReader> {
    return this.#watcher.copyOf(this.info, this.#producer).read(position);
  }

  async readAppends(after: number): Promise<EndableReader<AppendSlice>> {
    return this.#watcher.copyOf(this.info, this.#producer).readAppends(after);
  }

  stop(): Promise<void> {
    return this.#watcher.stop(this.info.id, this.#producer);
  }
}
