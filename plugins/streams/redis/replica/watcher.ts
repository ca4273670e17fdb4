import type { Clock } from '../../../clock.ts';
import type { Cluster } from '../../../redis/index.ts';
import type { MemoryLog } from '../../memory/log.ts';
import type { MemoryStore } from '../../memory/store.ts';
import type { StreamInfo } from '../../types.ts';
import type { Meta, Producer, StreamCommands, Takeover } from '../commands.ts';
import { FOLLOW, type Follow, GONE, type Gone, NEWS, type News, RELEASED, type Released, STOP } from '../messages.ts';
import { ProducerLiveness } from './liveness.ts';
import { ReplicaLog, type ReplicaLogObserver } from './log.ts';
import { Takeovers } from './takeovers.ts';

export interface ReplicaWatcherOptions {
  readonly cluster: Cluster;
  readonly clock: Clock;
  readonly commands: StreamCommands;
  readonly local: MemoryStore;
  /** Progress in units after which the producer is informed. */
  readonly progressUnits: number;
  /** Called when this replica has taken over a log of a dead producer and is its producer now. */
  onTakenOverHere(memory: MemoryLog, takeover: Takeover): void;
}

const TICK_MS = 500;
/** Ticks between two keep-alive messages to a producer. */
const TICKS_PER_KEEPALIVE = 2;
/** Ticks between two reads that need no message. */
const TICKS_PER_READ = 4;
/** Logs of a dead producer that are taken over at the same time. */
const TAKEOVER_BATCH = 64;
/** Replies of a producer that it does not produce a log, before the log counts as lost. */
const MAX_GONE_REPLIES = 3;
/** Stands for a producer that Redis has not named yet. The next tick asks again. */
const UNKNOWN_PRODUCER: Producer = { replica: '', epoch: 0 };

/**
 * Owns the replica logs of this process: one for each stream of another replica that has readers here.
 * Informs their producers, and takes over the logs of producers that are dead.
 */
export class ReplicaWatcher implements ReplicaLogObserver {
  readonly #options: ReplicaWatcherOptions;
  readonly #logs = new Map<string, ReplicaLog>();
  /** Readers and position that were last reported to the producer. */
  readonly #reported = new Map<ReplicaLog, { readers: number; position: number }>();
  /** Producers whose lease is being checked. */
  readonly #checking = new Set<string>();
  /** Logs without readers that are being taken over. */
  readonly #orphans = new Set<ReplicaLog>();
  readonly #liveness: ProducerLiveness;
  readonly #takeovers: Takeovers;
  #ticks = 0;
  #cancelTick: (() => void) | undefined;

  constructor(options: ReplicaWatcherOptions) {
    this.#options = options;
    this.#liveness = new ProducerLiveness(options);
    this.#takeovers = new Takeovers({ ...options, onTakenOver: (log, takeover) => this.#onTakenOver(log, takeover) });
    const { mailbox, connection } = options.cluster;
    mailbox.on(NEWS, (_, body) => {
      for (const id of body as News) void this.#logs.get(id)?.readNew();
    });
    mailbox.on(GONE, (from, id) => void this.#onGone(from, id as Gone).catch(() => {})); // The producer repeats it.
    mailbox.on(RELEASED, (from, id) => {
      const log = this.#logs.get(id as Released);
      if (log?.producer.replica === from) this.#takeovers.try(log).catch(() => {}); // The lease ends soon.
    });
    const readAll = () => {
      for (const log of this.#logs.values()) void log.readNew();
      this.#reportAll();
    };
    mailbox.onSubscribed(readAll);
    connection.onAvailable(readAll);
  }

  /** True if a reader here that is cut off can resume on any replica. */
  get canResume(): boolean {
    return this.#options.cluster.connection.isAvailable;
  }

  /** Returns the copy of a stream and its producer, if the stream has readers here. */
  get(id: string): ReplicaLog | undefined {
    return this.#logs.get(id);
  }

  /** Returns the copy of a stream, to attach a reader. The first reader creates it. @throws StoreFull */
  copyOf(info: StreamInfo, producer: Producer): ReplicaLog | MemoryLog {
    const { local } = this.#options;
    // Since the handle was opened, this process may have taken the stream over or copied all of it.
    return this.#logs.get(info.id) ?? local.get(info.id) ?? this.#add(local.add(info), producer);
  }

  /** Asks the producer of a stream to end. */
  async stop(id: string, producer: Producer): Promise<void> {
    const { commands, cluster } = this.#options;
    const replica = (await commands.requestStop(id)) ?? producer.replica;
    cluster.mailbox.send(replica, STOP, id);
  }

  /** Takes over a stream of a dead producer. Does nothing if it has readers here: they are looked after. @throws StoreFull */
  async takeOverOrphan({ info, ...producer }: Meta): Promise<void> {
    const { local } = this.#options;
    if (local.get(info.id)) return;
    const log = this.#add(local.add(info), producer);
    this.#orphans.add(log);
    try {
      await this.#takeovers.try(log, { isOrphan: true });
    } finally {
      this.#orphans.delete(log);
      if (this.#isWatched(log) && log.readers === 0) this.#remove(log);
    }
  }

  /**
   * Produces streams of which Redis has made this replica the producer without its knowledge, and which have no readers
   * here. @throws StoreFull, RedisUnavailable, or the error reply of Redis
   */
  async confirmTakeovers(): Promise<void> {
    await this.#takeovers.confirm((meta) => this.takeOverOrphan(meta));
  }

  /** Continues a log of this process that another replica has taken over, for its readers here. */
  adopt(memory: MemoryLog): void {
    const log = this.#add(memory, UNKNOWN_PRODUCER);
    void log.readNew();
    log.refreshProducer().catch(() => {}); // A later tick finds it.
  }

  close(): void {
    this.#cancelTick?.();
    this.#logs.clear();
  }

  onReaders(log: ReplicaLog): void {
    const hasReaders = log.readers > 0;
    const hasChanged = hasReaders !== (this.#reported.get(log)?.readers ?? 0) > 0;
    if (hasChanged && this.#isWatched(log)) this.#report(log.producer.replica, [log]);
    if (!hasReaders && !this.#orphans.has(log)) this.#remove(log);
  }

  onProgress(log: ReplicaLog): void {
    if (!this.#isWatched(log)) return;
    const reported = this.#reported.get(log)?.position ?? 0;
    if (log.length - reported >= this.#options.progressUnits) this.#report(log.producer.replica, [log]);
  }

  #add(memory: MemoryLog, producer: Producer): ReplicaLog {
    const { commands, clock } = this.#options;
    const log = new ReplicaLog({ memory, producer, commands, clock, observer: this });
    this.#logs.set(log.id, log);
    this.#cancelTick ??= clock.after(TICK_MS, () => this.#tick());
    return log;
  }

  /** Returns false for a log whose readers have left, or that is complete. It must not be reported again. */
  #isWatched(log: ReplicaLog): boolean {
    return this.#logs.get(log.id) === log;
  }

  #remove(log: ReplicaLog): void {
    log.close();
    this.#forget(log);
    this.#options.local.remove(log.memory);
  }

  #forget(log: ReplicaLog): void {
    this.#reported.delete(log);
    if (this.#isWatched(log)) this.#logs.delete(log.id);
  }

  /**
   * The producer no longer has this log. Read the rest from Redis; if the end is missing, another replica
   * has taken the log over or it is lost.
   */
  async #onGone(from: string, id: string): Promise<void> {
    const log = this.#logs.get(id);
    if (log === undefined || log.producer.replica !== from) return;
    await log.fill();
    await log.refreshProducer();
    log.goneReplies = log.producer.replica === from ? log.goneReplies + 1 : 0;
    if (log.goneReplies >= MAX_GONE_REPLIES) log.endAsLost();
  }

  #report(replica: string, logs: readonly ReplicaLog[]): void {
    const message: Follow = logs.map((log) => {
      this.#reported.set(log, { readers: log.readers, position: log.length });
      return [log.id, log.readers, log.length];
    });
    this.#options.cluster.mailbox.send(replica, FOLLOW, message);
  }

  #reportAll(): void {
    for (const [replica, logs] of this.#byProducer()) this.#report(replica, logs);
  }

  #tick(): void {
    const { clock } = this.#options;
    this.#cancelTick = this.#logs.size === 0 ? undefined : clock.after(TICK_MS, () => this.#tick());
    // A complete copy is no longer watched.
    for (const log of this.#logs.values()) if (log.ended) this.#forget(log);
    this.#ticks += 1;
    if (this.#ticks % TICKS_PER_KEEPALIVE === 0) this.#reportAll();
    // Readers get the end even if all messages are lost, at most two seconds later.
    if (this.#ticks % TICKS_PER_READ === 0) for (const log of this.#logs.values()) void log.readNew();
    const producers = this.#byProducer();
    const own = producers.get(this.#options.cluster.replica) ?? [];
    for (const log of own) this.#takeovers.try(log).catch(() => {}); // The next tick tries again.
    producers.delete(this.#options.cluster.replica);
    if (!this.#liveness.canLook(producers)) return;
    for (const [replica, logs] of producers) {
      if (this.#checking.has(replica)) continue;
      this.#checking.add(replica);
      this.#checkProducer(replica, logs)
        .catch(() => {}) // Redis is unavailable. Checked again when the lease is renewed.
        .finally(() => this.#checking.delete(replica));
    }
  }

  async #checkProducer(replica: string, logs: readonly ReplicaLog[]): Promise<void> {
    if (replica === UNKNOWN_PRODUCER.replica) {
      await Promise.all(logs.map((log) => log.refreshProducer()));
      return;
    }
    const state = await this.#liveness.look(replica);
    if (state === 'alive') for (const log of logs) log.onProducerAlive();
    if (state !== 'dead') return;
    for (let i = 0; i < logs.length; i += TAKEOVER_BATCH) {
      await Promise.all(logs.slice(i, i + TAKEOVER_BATCH).map((log) => this.#takeovers.try(log)));
    }
  }

  /** This replica is the producer of a log now. An answer that nobody reads is continued only in the background. */
  #onTakenOver(log: ReplicaLog, takeover: Takeover): void {
    const isWanted = log.readers > 0 || log.memory.info.stored === 'background';
    const memory = log.release();
    this.#forget(log);
    this.#options.onTakenOverHere(memory, isWanted ? takeover : { ...takeover, serializedPrompt: undefined });
  }

  #byProducer(): Map<string, ReplicaLog[]> {
    const groups = new Map<string, ReplicaLog[]>();
    for (const log of this.#logs.values()) {
      const { replica } = log.producer;
      const group = groups.get(replica);
      if (group) group.push(log);
      else groups.set(replica, [log]);
    }
    return groups;
  }
}
