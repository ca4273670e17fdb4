import type { Metrics } from '../../metrics/index.ts';
import type { Cluster } from '../../redis/index.ts';
import { MemoryStore, type MemoryStoreOptions } from '../memory/store.ts';
import {
  type CreateResult,
  type Idempotency,
  KeyConflict,
  type KeyLookup,
  type ReadableLog,
  type StreamInfo,
  type StreamStore,
  type TakeoverHandler,
} from '../types.ts';
import { StreamCommands, type StreamKeys } from './commands.ts';
import { isKeyHeld } from './links.ts';
import { ProducerRegistry } from './producer/registry.ts';
import { ReplicaHandle } from './replica/handle.ts';
import { Orphans } from './replica/orphans.ts';
import { ReplicaWatcher } from './replica/watcher.ts';
import { RunningCommands } from './running.ts';

export interface RedisStoreOptions extends MemoryStoreOptions {
  readonly cluster: Cluster;
  readonly metrics: Metrics;
  /** Longest time in milliseconds for which a log may be written. */
  maxLogMs(): number;
  /** Version of the format in Redis; another one only in tests. */
  readonly format?: number;
}

/**
 * Streams of several replicas. Logs that this process produces are in memory, as without Redis, and are
 * written to Redis on their way to readers. Logs of other replicas are copied from Redis while they have
 * readers here. If Redis is unavailable, this store works like the memory store, and its streams cannot be
 * resumed on other replicas.
 */
export class RedisStore implements StreamStore {
  readonly shared = true;
  readonly #options: RedisStoreOptions;
  readonly #commands: StreamCommands;
  readonly #local: MemoryStore;
  readonly #producers: ProducerRegistry;
  readonly #watcher: ReplicaWatcher;
  readonly #orphans: Orphans;

  constructor(options: RedisStoreOptions) {
    const { cluster, clock, metrics, flushMs, ttlMs, maxLogMs, highWaterMark, archive, format } = options;
    this.#options = options;
    const commands = new StreamCommands({ cluster, ttlMs, maxLogMs, archive, format });
    const running = new RunningCommands(cluster, () => maxLogMs() + ttlMs);
    // Writes to Redis are already delayed by `flushMs`, so readers do not wait again.
    const local = new MemoryStore({ ...options, flushMs: 0, archive: undefined });
    this.#commands = commands;
    this.#local = local;
    this.#producers = new ProducerRegistry({
      cluster,
      clock,
      metrics,
      commands,
      running,
      local,
      archive,
      flushMs,
      adopt: (memory) => this.#watcher.adopt(memory),
    });
    archive?.setUnwritten((id) => this.#producers.findUnwritten(id));
    this.#watcher = new ReplicaWatcher({
      cluster,
      clock,
      commands,
      local,
      progressUnits: highWaterMark / 2,
      onTakenOverHere: (memory, takeover) => this.#producers.produceTakenOver(memory, takeover),
    });
    this.#orphans = new Orphans({
      cluster,
      commands,
      running,
      takeOver: (meta) => this.#watcher.takeOverOrphan(meta),
      confirmTakeovers: () => this.#watcher.confirmTakeovers(),
    });
  }

  onTakeover(handler: TakeoverHandler): void {
    this.#producers.onTakeover(handler);
  }

  async create(info: StreamInfo, idempotency?: Idempotency, serializedPrompt?: string): Promise<CreateResult> {
    const known = idempotency && this.#local.findByKey(idempotency);
    if (known) return { created: false, log: this.#producers.find(known) };
    const replaced = idempotency && this.#local.findLastByKey(idempotency)?.info.id;
    const keys = { info, idempotency, replaced };
    const named = this.#producers.addName(info.id);
    try {
      const [result] = await Promise.all([this.#create(keys, serializedPrompt), named]);
      if (!result.created) this.#producers.removeName(info.id);
      return result;
    } catch (error) {
      this.#producers.removeName(info.id);
      throw error;
    }
  }

  async openByKey(lookup: KeyLookup): Promise<ReadableLog | undefined> {
    const known = this.#local.findByKey(lookup);
    if (known) return this.#producers.find(known);
    // A question is accepted without Redis. A lookup of a key must not take its stream for unknown.
    const isQuestion = lookup.fingerprint !== undefined;
    if (isQuestion && !this.#options.cluster.connection.isConnected) return undefined;
    const found = await this.#commands.byKey(lookup).catch((error: unknown) => {
      if (isQuestion && !isKeyHeld(error)) return undefined;
      throw error;
    });
    return found && this.#openExisting(found, lookup);
  }

  async openByChat(chat: string): Promise<ReadableLog | undefined> {
    const id = await this.#commands.byChat(chat).catch(() => undefined);
    const linked = id === undefined ? undefined : await this.#openRunning(id);
    if (linked) return linked;
    const known = await this.#local.openByChat(chat);
    return known && this.#producers.find(known);
  }

  async open(id: string): Promise<ReadableLog | undefined> {
    const known = this.#findHere(id);
    if (known) return known;
    const meta = await this.#commands.meta(id);
    return meta && new ReplicaHandle(meta.info, meta, this.#watcher);
  }

  handOver(): Promise<void> {
    return this.#producers.handOver();
  }

  async close(): Promise<void> {
    this.#orphans.close();
    await this.#producers.close();
    this.#watcher.close();
    await this.#local.close();
  }

  /** Returns a log that this process has, as its producer or as a copy. */
  #findHere(id: string): ReadableLog | undefined {
    const copied = this.#watcher.get(id);
    if (copied) return new ReplicaHandle(copied.memory.info, copied.producer, this.#watcher);
    const known = this.#local.get(id);
    return known && this.#producers.find(known);
  }

  /** Opens the stream of a conversation, unless it has ended: its producer has crashed before it could remove the link. */
  async #openRunning(id: string): Promise<ReadableLog | undefined> {
    const known = this.#findHere(id);
    if (known) return this.#local.get(id)?.ended ? undefined : known;
    const meta = await this.#commands.meta(id);
    return meta === undefined || meta.hasEnded ? undefined : new ReplicaHandle(meta.info, meta, this.#watcher);
  }

  async #create(keys: StreamKeys, serializedPrompt: string | undefined): Promise<CreateResult> {
    const { info, idempotency } = keys;
    // If Redis is unavailable or full, the question is still accepted. While other replicas cannot reach this one,
    // they must not find its streams.
    const found = this.#options.cluster.connection.isAvailable
      ? await this.#commands.create(keys, serializedPrompt).catch(continueWithout)
      : 'unavailable';
    if (found !== undefined && found !== 'unavailable') {
      const log = await this.#openExisting(found, idempotency as Idempotency);
      if (log) return { created: false, log };
    }
    const { log: memory, created } = await this.#local.create(info, idempotency).catch(async (error: unknown) => {
      await this.#commands.deleteStream(keys).catch(() => {});
      throw error;
    });
    if (!created) return { created, log: this.#producers.find(memory) };
    const isSynced = found === undefined;
    return { created, log: this.#producers.produce(memory, keys, { epoch: 1, isSynced }) };
  }

  async #openExisting(found: { id: string; fingerprint: string }, { fingerprint = found.fingerprint }: KeyLookup) {
    if (found.fingerprint !== fingerprint) throw new KeyConflict();
    return this.open(found.id);
  }
}

/** A question is answered without Redis, but not if another stream has its key. */
function continueWithout(error: unknown): 'unavailable' {
  if (isKeyHeld(error)) throw error;
  return 'unavailable';
}
