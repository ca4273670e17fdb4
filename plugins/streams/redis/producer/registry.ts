import type { Clock } from '../../../clock.ts';
import type { Metrics } from '../../../metrics/index.ts';
import type { Cluster } from '../../../redis/index.ts';
import type { AnswerArchive, EndedAnswer } from '../../answer-archive.ts';
import type { MemoryLog } from '../../memory/log.ts';
import { partsOf } from '../../memory/parts.ts';
import type { MemoryStore } from '../../memory/store.ts';
import type { TakeoverHandler } from '../../types.ts';
import type { StreamCommands, StreamKeys, Takeover } from '../commands.ts';
import { ALIVE, LOOK } from '../messages.ts';
import type { RunningCommands } from '../running.ts';
import { CommitGroup } from './commit-group.ts';
import { ProducerLog, type ProducerLogObserver } from './log.ts';
import { RemoteReaders } from './remote-readers.ts';
import { RunningStreams } from './running-streams.ts';
import { StopRequests } from './stop-requests.ts';
import { UnsyncedLogs } from './unsynced.ts';

export interface ProducerRegistryOptions {
  readonly cluster: Cluster;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly commands: StreamCommands;
  readonly running: RunningCommands;
  readonly local: MemoryStore;
  readonly archive?: AnswerArchive | undefined;
  /** Least milliseconds between two writes of a log. */
  readonly flushMs: number;
  /** Continues to serve the readers of a log that another replica has taken over. */
  adopt(memory: MemoryLog): void;
}

/** The logs that this process produces. */
export class ProducerRegistry implements ProducerLogObserver {
  readonly #options: ProducerRegistryOptions;
  readonly #logs = new WeakMap<MemoryLog, ProducerLog>();
  /** Logs whose terminal is not in Redis yet, by stream id. */
  readonly #running = new Map<string, ProducerLog>();
  readonly #unsynced: UnsyncedLogs;
  readonly #stopRequests: StopRequests;
  readonly #remoteReaders: RemoteReaders;
  readonly #names: RunningStreams;
  readonly #commits: CommitGroup;
  #takeoverHandler: TakeoverHandler = () => {};

  constructor(options: ProducerRegistryOptions) {
    const { cluster, clock, commands, running, local, flushMs } = options;
    this.#options = options;
    this.#commits = new CommitGroup({ clock, flushMs, together: (send) => cluster.connection.together(send) });
    this.#unsynced = new UnsyncedLogs({ clock, connection: cluster.connection, local });
    this.#remoteReaders = new RemoteReaders({ cluster, clock, running: this.#running });
    this.#names = new RunningStreams({ cluster, running });
    this.#stopRequests = new StopRequests({ cluster, clock, commands, running: this.#running });
    const { lease, mailbox } = cluster;
    mailbox.on(LOOK, (from) => {
      if (!lease.isHeld) return;
      mailbox.send(from, ALIVE, '');
      lease.renew();
    });
    // This process was paused, Redis was emptied, or Redis or one of its nodes came back with older data.
    const verifyAll = () => {
      for (const log of this.#running.values()) void log.writer.verify();
    };
    lease.onMissing(verifyAll);
    cluster.connection.onAvailable(verifyAll);
    cluster.connection.onNodesChanged(verifyAll);
    cluster.connection.onUnavailable(() => {
      for (const log of this.#running.values()) log.writer.showResumable();
    });
  }

  /** Names a stream before its creation, so that another replica finds it after the death of this one. Never rejects. */
  addName(id: string): Promise<void> {
    return this.#names.add(id);
  }

  /** Removes the name of a stream that was not created. */
  removeName(id: string): void {
    this.#names.remove(id);
  }

  /** Starts to produce a log. `isSynced` is true if Redis has the stream. */
  produce(memory: MemoryLog, keys: StreamKeys, { epoch, isSynced }: { epoch: number; isSynced: boolean }): ProducerLog {
    const { commands, clock, cluster } = this.#options;
    const commits = this.#commits;
    const { lease, connection } = cluster;
    const log = new ProducerLog({ memory, keys, commands, clock, commits, epoch, isSynced, lease, connection }, this);
    this.#logs.set(memory, log);
    this.#running.set(memory.info.id, log);
    void this.#names.add(memory.info.id);
    return log;
  }

  /** Registers the handler for logs that this process takes over. */
  onTakeover(handler: TakeoverHandler): void {
    this.#takeoverHandler = handler;
  }

  /** Produces a log that this process has taken over from a dead producer. */
  produceTakenOver(memory: MemoryLog, { epoch, position, serializedPrompt, isStopRequested }: Takeover): void {
    const { archive } = this.#options;
    if (memory.info.stored !== undefined) archive?.onTakenOver(memory.info);
    const log = this.produce(memory, { info: memory.info }, { epoch, isSynced: true });
    // Without the last entries of the dead producer the answer cannot be continued.
    const prompt = memory.length === position ? serializedPrompt : undefined;
    this.#takeoverHandler(log, prompt, isStopRequested);
    if (isStopRequested) return;
    // A request that came during the takeover was sent to the dead producer.
    void this.#stopRequests.check([log]);
  }

  /**
   * Lets other replicas continue the answers of this process that they could continue after its death. Tells those
   * that have readers; another one finds out when it has.
   */
  async handOver(): Promise<void> {
    await Promise.all(
      [...this.#running.values()].map(async (log) => {
        // A client that cannot resume stays until this process ends.
        if (log.info.graceMs === 0 || !(await log.writer.handOver())) return;
        this.#remoteReaders.onReleased(log.info.id);
        log.memory.onTakenOver();
        // If nobody reads it until then, another replica finds its name after the end of this one, and ends it.
        await this.#names.add(log.info.id);
      }),
    );
  }

  /** Returns the producer log of `memory`, or `memory` if this process does not produce it. */
  find(memory: MemoryLog): ProducerLog | MemoryLog {
    return this.#logs.get(memory) ?? memory;
  }

  /** Returns an answer that has ended here, and whose end is not in Redis. */
  findUnwritten(id: string): EndedAnswer | undefined {
    const memory = this.#running.get(id)?.memory;
    return memory?.terminal && { parts: partsOf(memory), terminal: memory.terminal };
  }

  async close(): Promise<void> {
    await Promise.all([...this.#running.values()].map(({ writer }) => writer.flushed()));
    await this.#names.close();
    this.#unsynced.close();
    this.#stopRequests.close();
    this.#remoteReaders.close();
  }

  onUnsynced(log: ProducerLog): void {
    this.#options.metrics.streamsUnsynced.inc();
    this.#unsynced.add(log);
  }

  onCompared({ info }: ProducerLog): void {
    if (info.stored !== undefined) this.#options.archive?.onCompared(info);
  }

  onDone(log: ProducerLog): void {
    if (log.info.stored !== undefined) this.#options.archive?.onReleased(log.info);
    this.#running.delete(log.info.id);
    this.#names.remove(log.info.id);
    this.#unsynced.delete(log);
  }

  /** Another replica has taken the log over. Readers of this process continue with what the new producer writes. */
  onFenced(log: ProducerLog): void {
    const { memory } = log;
    this.onDone(log);
    this.#logs.delete(memory);
    memory.onTakenOver();
    if (memory.hasConsumers) this.#options.adopt(memory);
    else this.#options.local.remove(memory);
  }
}
