import type { Cluster } from '../../../redis/index.ts';
import { NewerFormat } from '../../types.ts';
import type { Meta, StreamCommands } from '../commands.ts';
import type { RunningCommands } from '../running.ts';

export interface OrphansOptions {
  readonly cluster: Cluster;
  readonly commands: StreamCommands;
  readonly running: RunningCommands;
  /** Takes over a stream of a dead producer, unless it has readers here. @throws StoreFull */
  takeOver(meta: Meta): Promise<void>;
  /** Repeats what `takeOver` could not finish because Redis did not reply. @throws StoreFull */
  confirmTakeovers(): Promise<void>;
}

/** Renewals of the lease between two looks: two seconds. */
const RENEWALS_PER_LOOK = 2;
/**
 * Looks in a row that must find the lease of a replica missing. A replica with readers of a stream takes it over before
 * that, because it can continue the answer.
 */
const MIN_LOOKS = 3;
/** A missing lease counts only if this replica has renewed its own lease for this time, as Redis may have been unavailable. */
const MIN_RENEWED_MS = 4_000;
/** Streams that are taken over at the same time. */
const BATCH = 64;

/**
 * Ends streams whose producer is dead and that nobody reads: what they have used is charged and recorded, and later
 * readers get their end at once. Every replica looks; of several, exactly one takes a stream over.
 */
export class Orphans {
  readonly #options: OrphansOptions;
  /** Looks in a row that found the lease of a replica missing. */
  readonly #missing = new Map<string, number>();
  #renewals = 0;
  #isLooking = false;
  #isClosed = false;

  constructor(options: OrphansOptions) {
    this.#options = options;
    // Before this replica produces anything. A look repeats it.
    options.running.announce().catch(() => {});
    options.cluster.lease.onRenewed(() => {
      this.#renewals += 1;
      if (this.#isClosed || this.#isLooking || this.#renewals % RENEWALS_PER_LOOK !== 0) return;
      this.#isLooking = true;
      this.#look()
        .catch(() => {}) // Redis is unavailable, or memory is full. The next look tries again.
        .finally(() => {
          this.#isLooking = false;
        });
    });
  }

  close(): void {
    this.#isClosed = true;
  }

  async #look(): Promise<void> {
    const { cluster, commands, running } = this.#options;
    await running.announce();
    await this.#options.confirmTakeovers();
    if (cluster.lease.renewedForMs < MIN_RENEWED_MS) return this.#missing.clear();
    const others = await running.others();
    for (const replica of this.#missing.keys()) if (!others.includes(replica)) this.#missing.delete(replica);
    for (const replica of others) {
      if (await commands.isAlive(replica)) {
        this.#missing.delete(replica);
        continue;
      }
      const looks = (this.#missing.get(replica) ?? 0) + 1;
      this.#missing.set(replica, looks);
      if (looks >= MIN_LOOKS) await this.#endAllOf(replica);
    }
  }

  async #endAllOf(replica: string): Promise<void> {
    const { commands, running, takeOver } = this.#options;
    const ids = await running.of(replica);
    let isComplete = true;
    const end = async (id: string) => {
      const meta = await commands.meta(id).catch((error: unknown) => {
        if (!(error instanceof NewerFormat)) throw error;
        isComplete = false; // A replica of that version ends it.
        return undefined;
      });
      if (meta?.replica === replica) await takeOver(meta);
    };
    for (let i = 0; i < ids.length && !this.#isClosed; i += BATCH) await Promise.all(ids.slice(i, i + BATCH).map(end));
    if (this.#isClosed || !isComplete) return;
    await running.forget(replica);
    this.#missing.delete(replica);
  }
}
