import type { Cluster } from '../../../redis/index.ts';
import type { Meta, StreamCommands, Takeover } from '../commands.ts';
import type { ReplicaLog } from './log.ts';

export interface TakeoversOptions {
  readonly cluster: Cluster;
  readonly commands: StreamCommands;
  /** Called when this replica is the producer of a log, which has all that Redis has. */
  onTakenOver(log: ReplicaLog, takeover: Takeover): void;
}

/** Reads that wait for the last entries of a dead producer. */
const MAX_FILL_TRIES = 5;

/**
 * Takes over logs of dead producers. Redis names exactly one replica, whose reply may be lost: then that replica finds
 * itself as the producer of a log that it does not produce, and repeats the takeover.
 */
export class Takeovers {
  readonly #options: TakeoversOptions;
  /** Streams of which Redis may have made this replica the producer, although no reply has said so. */
  readonly #unconfirmed = new Set<string>();
  readonly #running = new Set<ReplicaLog>();

  constructor(options: TakeoversOptions) {
    this.#options = options;
  }

  /**
   * Takes a log over, unless another replica was first, it has ended, or it has no readers and is no orphan.
   * @throws RedisUnavailable, or the error reply of Redis
   */
  async try(log: ReplicaLog, { isOrphan = false } = {}): Promise<void> {
    await log.fill();
    if (log.ended) this.#unconfirmed.delete(log.id);
    if (log.ended || this.#running.has(log) || (log.readers === 0 && !isOrphan)) return;
    this.#running.add(log);
    try {
      await this.#takeOver(log);
    } finally {
      this.#running.delete(log);
    }
  }

  /**
   * Repeats takeovers whose reply was lost.
   * @param takeOver takes over a stream of which Redis names this replica
   * @throws what `takeOver` throws, RedisUnavailable, or the error reply of Redis
   */
  async confirm(takeOver: (meta: Meta) => Promise<void>): Promise<void> {
    const { commands, cluster } = this.#options;
    for (const id of [...this.#unconfirmed]) {
      const meta = await commands.meta(id);
      if (meta?.replica === cluster.replica) await takeOver(meta);
      else this.#unconfirmed.delete(id);
    }
  }

  async #takeOver(log: ReplicaLog): Promise<void> {
    const { cluster, commands, onTakenOver } = this.#options;
    this.#unconfirmed.add(log.id);
    const takeover = await commands.takeOver(log.id, log.producer);
    if (takeover === undefined) {
      await log.refreshProducer();
      if (log.producer.replica !== cluster.replica) this.#unconfirmed.delete(log.id);
      return;
    }
    this.#unconfirmed.delete(log.id);
    // The last entries of the dead producer may have arrived after the read.
    for (let tries = 0; tries < MAX_FILL_TRIES && log.length < takeover.position; tries++) {
      await log.fill().catch(() => {});
    }
    onTakenOver(log, takeover);
  }
}
