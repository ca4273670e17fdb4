import type { Clock } from '../../../clock.ts';
import type { Cluster } from '../../../redis/index.ts';
import type { StreamCommands, Takeover } from '../commands.ts';
import { FOLLOW, type Follow, GONE, type Gone, NEWS, type News, STOP } from '../messages.ts';
import type { ReplicaLog } from './log.ts';

export interface ReplicaWatcherOptions {
  readonly shared: Cluster;
  readonly clock: Clock;
  readonly records: StreamCommands;
  /** Progress, in units, that is worth a message. */
  readonly step: number;
  /** The producer has died, and this replica is the first to say so. */
  onTakenOver(log: ReplicaLog, won: Takeover): void;
}

const TICK_MS = 500;
/** Logs of a dead producer that are taken over at once. */
const TAKEOVER_BATCH = 64;
const MAX_FILL_TRIES = 5;
/** Times that a producer says it has no such log, before its reader believes it. */
const MAX_GONE_REPLIES = 3;
/** Looks between two messages to a producer that everything is as it was. */
const TICKS_PER_KEEPALIVE = 2;
const TICKS_PER_READ = 4;
/** A lease counts as lost only where this replica could renew its own for so long: so could the other. */
const MIN_RENEWED_MS = 2_000;

/** The logs that readers here follow: tells their producers so, and looks after those producers. */
export class ReplicaWatcher {
  readonly #options: ReplicaWatcherOptions;
  readonly #logs = new Map<string, ReplicaLog>();
  /** What each producer was told last. */
  readonly #told = new Map<ReplicaLog, { readers: number; position: number }>();
  readonly #looking = new Set<string>();
  #looks = 0;
  #cancelLook: (() => void) | undefined;

  constructor(options: ReplicaWatcherOptions) {
    this.#options = options;
    const { mailbox, connection } = options.shared;
    mailbox.on(NEWS, (_, body) => {
      for (const id of body as News) void this.#logs.get(id)?.wake();
    });
    mailbox.on(GONE, (from, id) => void this.#onGone(from, id as Gone).catch(() => {})); // It is said again.
    const wakeAll = () => {
      for (const log of this.#logs.values()) void log.wake();
      this.#tellAll();
    };
    mailbox.onSubscribed(wakeAll);
    connection.onReconnect(wakeAll);
  }

  get(id: string): ReplicaLog | undefined {
    return this.#logs.get(id);
  }

  leaderOf(log: ReplicaLog): ReplicaLog {
    const known = this.#logs.get(log.info.id);
    if (known) return known;
    this.#logs.set(log.info.id, log);
    this.#cancelLook ??= this.#options.clock.after(TICK_MS, () => this.#look());
    return log;
  }

  onFollowed(log: ReplicaLog, readers: number): void {
    const told = this.#told.get(log);
    const hasChanged = (told?.readers ?? 0) > 0 !== readers > 0;
    if (hasChanged || log.length - (told?.position ?? 0) >= this.#options.step) this.#tell(log.producer.replica, [log]);
    if (readers === 0) this.forget(log);
  }

  forget(log: ReplicaLog): void {
    this.#told.delete(log);
    if (this.#logs.get(log.info.id) === log) this.#logs.delete(log.info.id);
  }

  async stop(log: ReplicaLog): Promise<void> {
    await this.#options.records.requestStop(log.info.id);
    this.#options.shared.mailbox.send(log.producer.replica, STOP, log.info.id);
  }

  close(): void {
    this.#cancelLook?.();
    this.#logs.clear();
  }

  /** What it wrote is in Redis, its end too; if not, another goes on with it, or nobody will. */
  async #onGone(from: string, id: string): Promise<void> {
    const log = this.#logs.get(id);
    if (log === undefined || log.producer.replica !== from) return;
    await log.fill();
    await log.refreshProducer();
    log.goneTimes = log.producer.replica === from ? log.goneTimes + 1 : 0;
    if (log.goneTimes >= MAX_GONE_REPLIES) log.lose();
  }

  #tell(replica: string, logs: readonly ReplicaLog[]): void {
    const said: Follow = logs.map((log) => {
      this.#told.set(log, { readers: log.readers, position: log.length });
      return [log.info.id, log.readers, log.length];
    });
    this.#options.shared.mailbox.send(replica, FOLLOW, said);
  }

  #tellAll(): void {
    for (const [replica, logs] of this.#byProducer()) this.#tell(replica, logs);
  }

  #look(): void {
    this.#cancelLook = this.#logs.size === 0 ? undefined : this.#options.clock.after(TICK_MS, () => this.#look());
    // A copy that is whole needs no producer.
    for (const log of this.#logs.values()) if (log.ended) this.forget(log);
    this.#looks += 1;
    if (this.#looks % TICKS_PER_KEEPALIVE === 0) this.#tellAll();
    // No message is needed for a reader to get its end, only for it to get it soon.
    if (this.#looks % TICKS_PER_READ === 0) for (const log of this.#logs.values()) void log.wake();
    if (this.#options.shared.lease.renewedForMs < MIN_RENEWED_MS) return;
    for (const [replica, logs] of this.#byProducer()) {
      if (this.#looking.has(replica)) continue;
      this.#looking.add(replica);
      this.#lookAfter(replica, logs)
        .catch(() => {}) // Redis is away: looked again when it is steady.
        .finally(() => this.#looking.delete(replica));
    }
  }

  async #lookAfter(replica: string, logs: readonly ReplicaLog[]): Promise<void> {
    const { records } = this.#options;
    if (await records.isAlive(replica)) return;
    for (let i = 0; i < logs.length; i += TAKEOVER_BATCH) {
      await Promise.all(logs.slice(i, i + TAKEOVER_BATCH).map((log) => this.#takeOver(log)));
    }
  }

  async #takeOver(log: ReplicaLog): Promise<void> {
    const { records, onTakenOver } = this.#options;
    await log.fill();
    if (log.ended || log.readers === 0) return;
    const won = await records.takeOver(log.info.id, log.producer);
    if (won === undefined) return log.refreshProducer();
    // What the dead one wrote last may have come behind what was read.
    for (let tries = 0; tries < MAX_FILL_TRIES && log.length < won.position; tries++) await log.fill().catch(() => {});
    onTakenOver(log, won);
  }

  #byProducer(): Map<string, ReplicaLog[]> {
    const groups = new Map<string, ReplicaLog[]>();
    for (const log of this.#logs.values()) {
      const { replica } = log.producer;
      groups.set(replica, [...(groups.get(replica) ?? []), log]);
    }
    return groups;
  }
}
