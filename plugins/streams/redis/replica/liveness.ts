import type { Clock } from '../../../clock.ts';
import type { Cluster } from '../../../redis/index.ts';
import type { StreamCommands } from '../commands.ts';
import { ALIVE, LOOK } from '../messages.ts';

export interface ProducerLivenessOptions {
  readonly cluster: Cluster;
  readonly clock: Clock;
  readonly commands: StreamCommands;
}

/**
 * A missing lease counts only if this replica has renewed its own lease for this time. Otherwise Redis may have
 * been unavailable to others too.
 */
const MIN_RENEWED_MS = 2_000;
/**
 * Time for which each look must find the lease of a producer missing before it counts as dead. A producer that lives
 * renews a lease that was deleted or evicted within a second, and replies when it is asked.
 */
const MIN_MISSING_MS = 1_500;

/** Says which producers are dead. One missing lease is no death: it may have been deleted or evicted. */
export class ProducerLiveness {
  readonly #options: ProducerLivenessOptions;
  /** Times of the first of the looks in a row that found the lease of a producer missing. */
  readonly #missingSince = new Map<string, number>();

  constructor(options: ProducerLivenessOptions) {
    this.#options = options;
    options.cluster.mailbox.on(ALIVE, (from) => void this.#missingSince.delete(from));
  }

  /** Call before each round of looks. Returns false if a look would say nothing now, nor do those before. */
  canLook(producers: ReadonlyMap<string, unknown>): boolean {
    const canLook = this.#options.cluster.lease.renewedForMs >= MIN_RENEWED_MS;
    for (const replica of this.#missingSince.keys()) {
      if (!canLook || !producers.has(replica)) this.#missingSince.delete(replica);
    }
    return canLook;
  }

  /** Looks at the lease of a producer. @throws RedisUnavailable, or the error reply of Redis */
  async look(replica: string): Promise<'alive' | 'missing' | 'dead'> {
    const { cluster, clock, commands } = this.#options;
    const lookedAt = clock.now();
    if (await commands.isAlive(replica)) {
      this.#missingSince.delete(replica);
      return 'alive';
    }
    const missingSince = this.#missingSince.get(replica) ?? lookedAt;
    this.#missingSince.set(replica, missingSince);
    cluster.mailbox.send(replica, LOOK, '');
    return lookedAt - missingSince >= MIN_MISSING_MS ? 'dead' : 'missing';
  }
}
