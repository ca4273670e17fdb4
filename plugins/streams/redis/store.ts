import type { Clock } from '../../clock.ts';
import type { Metrics } from '../../metrics/index.ts';
import type { Cluster } from '../../redis/index.ts';
import type { MemoryLog } from '../memory/log.ts';
import { MemoryStore, type MemoryStoreOptions } from '../memory/store.ts';
import { type Idempotency, KeyConflict, type StreamInfo, type StreamLog, type StreamStore } from '../types.ts';
import { type Producer, StreamCommands, type StreamKeys, type Takeover } from './commands.ts';
import { ProducerLog } from './producer/log.ts';
import { RemoteReaders } from './producer/remote-readers.ts';
import { handleStopRequests } from './producer/stop-requests.ts';
import { UnsyncedLogs } from './producer/unsynced.ts';
import { ReplicaLog } from './replica/log.ts';
import { ReplicaWatcher } from './replica/watcher.ts';

export interface RedisStoreOptions extends MemoryStoreOptions {
  readonly shared: Cluster;
  readonly metrics: Metrics;
  /** For how long an answer may be written, in milliseconds. */
  readonly longestMs: number;
}

/** Until Redis is asked who it is. */
const NOBODY: Producer = { replica: '', epoch: 0 };

/**
 * Streams of many replicas. What is produced here is kept in memory, as without Redis, and written to
 * Redis on its way to readers; what others produce is copied from there while somebody reads it here.
 * Where Redis is away this store is the memory store, and says that its streams cannot be resumed.
 */
export class RedisStore implements StreamStore {
  readonly shared = true;
  readonly #options: RedisStoreOptions;
  readonly #clock: Clock;
  readonly #records: StreamCommands;
  readonly #local: MemoryStore;
  readonly #logs = new WeakMap<MemoryLog, ProducerLog>();
  readonly #running = new Map<string, ProducerLog>();
  readonly #detached: UnsyncedLogs;
  readonly #followers: RemoteReaders;
  readonly #following: ReplicaWatcher;
  #heir: (log: StreamLog, question: string | undefined) => void = () => {};

  constructor(options: RedisStoreOptions) {
    const { shared, clock, ttlMs, longestMs, highWaterMark } = options;
    this.#options = options;
    this.#clock = clock;
    this.#records = new StreamCommands(shared, ttlMs, longestMs);
    // What Redis has acknowledged has waited for its frame already.
    this.#local = new MemoryStore({ ...options, flushMs: 0 });
    this.#detached = new UnsyncedLogs(
      clock,
      shared.connection,
      (log) => this.#local.has(log.memory),
      (log) => this.#forget(log),
    );
    this.#followers = new RemoteReaders(shared, clock, (id) => this.#running.get(id)?.memory);
    this.#following = new ReplicaWatcher({
      shared,
      clock,
      records: this.#records,
      step: highWaterMark / 2,
      onTakenOver: (log, won) => this.#inherit(log, won),
    });
    handleStopRequests(shared, this.#records, this.#running);
    // It was stopped for long, or Redis was emptied, or has come back as it was some time ago.
    const verify = () => {
      for (const log of this.#running.values()) void log.writer.verify();
    };
    shared.lease.onLost(verify);
    shared.connection.onReconnect(verify);
  }

  onTakeover(heir: (log: StreamLog, question: string | undefined) => void): void {
    this.#heir = heir;
  }

  async create(
    info: StreamInfo,
    idempotency?: Idempotency,
    question?: string,
  ): Promise<{ log: StreamLog; created: boolean }> {
    const known = idempotency && (await this.#local.openByKey(idempotency));
    if (known) return { log: this.#logOf(known), created: false };
    const names = { info, idempotency };
    // Redis that is away, or full, is no reason to refuse a question.
    const found = await this.#records.create(names, question).catch(() => 'away' as const);
    if (found !== undefined && found !== 'away') {
      const log = await this.#openFound(found, idempotency as Idempotency);
      if (log) return { log, created: false };
    }
    const { log: memory, created } = await this.#local.create(info, idempotency).catch(async (error: unknown) => {
      await this.#records.drop(names).catch(() => {});
      throw error;
    });
    if (!created) return { log: this.#logOf(memory), created };
    return { log: this.#produce(memory, names, 1, found === undefined), created };
  }

  async openByKey(idempotency: Idempotency): Promise<StreamLog | undefined> {
    const known = await this.#local.openByKey(idempotency);
    if (known) return this.#logOf(known);
    if (!this.#options.shared.connection.isAvailable) return undefined;
    const found = await this.#records.byKey(idempotency).catch(() => undefined);
    return found && this.#openFound(found, idempotency);
  }

  async openByChat(chat: string): Promise<StreamLog | undefined> {
    const id = await this.#records.byChat(chat).catch(() => undefined);
    if (id !== undefined) return this.open(id);
    const known = await this.#local.openByChat(chat);
    return known && this.#logOf(known);
  }

  async open(id: string): Promise<StreamLog | undefined> {
    const followed = this.#following.get(id);
    if (followed) return followed;
    const known = await this.#local.open(id);
    if (known) return this.#logOf(known);
    const meta = await this.#records.meta(id);
    return meta && this.#follow(meta.info, meta);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#running.values()].map(({ writer }) => writer.flushed()));
    this.#detached.close();
    this.#followers.close();
    this.#following.close();
    await this.#local.close();
  }

  async #openFound({ id, fingerprint }: { id: string; fingerprint: string }, asked: Idempotency) {
    if (fingerprint !== asked.fingerprint) throw new KeyConflict();
    return this.open(id);
  }

  #logOf(memory: MemoryLog): StreamLog {
    return this.#logs.get(memory) ?? memory;
  }

  #produce(memory: MemoryLog, names: StreamKeys, epoch: number, isSynced: boolean): ProducerLog {
    const { shared, flushMs, metrics } = this.#options;
    const { lease } = shared;
    const options = { memory, names, records: this.#records, clock: this.#clock, flushMs, epoch, isSynced, lease };
    const { id } = memory.info;
    const log = new ProducerLog(options, {
      onUnsynced: (one) => {
        metrics.streamsUnsynced.inc();
        this.#detached.add(one);
      },
      onFenced: (one) => this.#lose(one),
      onDone: (one) => this.#forget(one),
    });
    this.#logs.set(memory, log);
    this.#running.set(id, log);
    return log;
  }

  #forget(log: ProducerLog): void {
    this.#running.delete(log.info.id);
    this.#detached.delete(log);
  }

  #follow(info: StreamInfo, producer: Producer): ReplicaLog {
    return new ReplicaLog({
      info,
      producer,
      records: this.#records,
      clock: this.#clock,
      leaderOf: (log) => this.#following.leaderOf(log),
      createCopy: async (of) => (await this.#local.create(of)).log,
      onFollowed: (log, readers) => {
        this.#following.onFollowed(log, readers);
        if (readers === 0) this.#local.forget(info.id);
      },
      stop: (log) => this.#following.stop(log),
    });
  }

  /** The producer of a log that is read here has died: this process is its producer now. */
  #inherit(followed: ReplicaLog, { epoch, position, question }: Takeover): void {
    const memory = followed.release();
    this.#following.forget(followed);
    if (memory === undefined) return;
    const log = this.#produce(memory, { info: memory.info }, epoch, true);
    // Without its last words it cannot be gone on with.
    this.#heir(log, memory.length === position ? question : undefined);
  }

  /** Another replica has taken over what was produced here: readers go on with what it writes. */
  #lose(log: ProducerLog): void {
    const { memory, info } = log;
    this.#forget(log);
    this.#logs.delete(memory);
    memory.onLost();
    if (memory.hasConsumers) void this.#following.leaderOf(this.#follow(info, NOBODY)).adopt(memory);
    else this.#local.forget(info.id);
  }
}
