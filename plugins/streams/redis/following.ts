import type { Clock } from '../../clock.ts';
import type { Shared } from '../../redis/index.ts';
import type { FollowedLog } from './followed-log.ts';
import { FOLLOW, type Follow, NEWS, type News, STOP } from './messages.ts';
import type { Records } from './records.ts';

export interface FollowingOptions {
  readonly shared: Shared;
  readonly clock: Clock;
  readonly records: Records;
  /** Progress, in units, that is worth a message. */
  readonly step: number;
  /** The producer has died, and this replica is the first to say so. */
  onTakenOver(log: FollowedLog, epoch: number): void;
}

const LOOK_MS = 500;
/** Looks between two messages to a producer that everything is as it was. */
const LOOKS_A_WORD = 2;
/** A lease counts as lost only where Redis has answered for so long, so that its owner could renew it. */
const STEADY_MS = 2_000;

/** The logs that readers here follow: tells their producers so, and looks after those producers. */
export class Following {
  readonly #options: FollowingOptions;
  readonly #logs = new Map<string, FollowedLog>();
  /** What each producer was told last. */
  readonly #told = new Map<FollowedLog, { readers: number; position: number }>();
  #looks = 0;
  #cancelLook: (() => void) | undefined;

  constructor(options: FollowingOptions) {
    this.#options = options;
    const { inbox, link } = options.shared;
    inbox.on(NEWS, (_, body) => {
      for (const id of body as News) void this.#logs.get(id)?.wake();
    });
    const wakeAll = () => {
      for (const log of this.#logs.values()) void log.wake();
      this.#tellAll();
    };
    inbox.onOpen(wakeAll);
    link.onBack(wakeAll);
  }

  get(id: string): FollowedLog | undefined {
    return this.#logs.get(id);
  }

  leaderOf(log: FollowedLog): FollowedLog {
    const known = this.#logs.get(log.info.id);
    if (known) return known;
    this.#logs.set(log.info.id, log);
    this.#cancelLook ??= this.#options.clock.after(LOOK_MS, () => this.#look());
    return log;
  }

  onFollowed(log: FollowedLog, readers: number): void {
    const told = this.#told.get(log);
    const hasChanged = (told?.readers ?? 0) > 0 !== readers > 0;
    if (hasChanged || log.length - (told?.position ?? 0) >= this.#options.step) this.#tell(log.producer.replica, [log]);
    if (readers === 0) this.forget(log);
  }

  forget(log: FollowedLog): void {
    this.#told.delete(log);
    if (this.#logs.get(log.info.id) === log) this.#logs.delete(log.info.id);
  }

  async stop(log: FollowedLog): Promise<void> {
    await this.#options.records.wishStop(log.info.id);
    this.#options.shared.inbox.send(log.producer.replica, STOP, log.info.id);
  }

  close(): void {
    this.#cancelLook?.();
    this.#logs.clear();
  }

  #tell(replica: string, logs: readonly FollowedLog[]): void {
    const said: Follow = logs.map((log) => {
      this.#told.set(log, { readers: log.readers, position: log.length });
      return [log.info.id, log.readers, log.length];
    });
    this.#options.shared.inbox.send(replica, FOLLOW, said);
  }

  #tellAll(): void {
    for (const [replica, logs] of this.#byProducer()) this.#tell(replica, logs);
  }

  #look(): void {
    this.#cancelLook = this.#logs.size === 0 ? undefined : this.#options.clock.after(LOOK_MS, () => this.#look());
    // A copy that is whole needs no producer.
    for (const log of this.#logs.values()) if (log.ended) this.forget(log);
    this.#looks += 1;
    if (this.#looks % LOOKS_A_WORD === 0) this.#tellAll();
    if (this.#options.shared.link.steadyMs < STEADY_MS) return;
    for (const [replica, logs] of this.#byProducer()) {
      this.#lookAfter(replica, logs).catch(() => {}); // Redis is away: looked again when it is steady.
    }
  }

  async #lookAfter(replica: string, logs: readonly FollowedLog[]): Promise<void> {
    const { records, onTakenOver } = this.#options;
    if (await records.isAlive(replica)) return;
    for (const log of logs) {
      await log.wake();
      if (log.ended || log.readers === 0) continue;
      const epoch = await records.takeOver(log.info.id, log.producer);
      if (epoch === undefined) await log.refreshProducer();
      else onTakenOver(log, epoch);
    }
  }

  #byProducer(): Map<string, FollowedLog[]> {
    const groups = new Map<string, FollowedLog[]>();
    for (const log of this.#logs.values()) {
      const { replica } = log.producer;
      groups.set(replica, [...(groups.get(replica) ?? []), log]);
    }
    return groups;
  }
}
