import type { Clock } from '../../../clock.ts';
import type { Cluster } from '../../../redis/index.ts';
import type { StreamCommands } from '../commands.ts';
import { STOP, type Stop } from '../messages.ts';
import type { ProducerLog } from './log.ts';

/** Time after which logs are checked again whose request could not be read. */
const RETRY_MS = 500;

export interface StopRequestsOptions {
  readonly cluster: Pick<Cluster, 'mailbox'>;
  readonly clock: Clock;
  readonly commands: Pick<StreamCommands, 'isStopRequested'>;
  readonly running: ReadonlyMap<string, ProducerLog>;
}

/**
 * Handles stop requests of other replicas. They arrive as messages. After each new subscription the requests in Redis
 * are read too, because messages may have been lost; again and again if Redis cannot be read yet.
 */
export class StopRequests {
  readonly #options: StopRequestsOptions;
  /** Logs that are to be checked again. */
  readonly #unread = new Set<ProducerLog>();
  #cancelRetry: (() => void) | undefined;

  constructor(options: StopRequestsOptions) {
    this.#options = options;
    const { cluster, running } = options;
    cluster.mailbox.on(STOP, (_, id) => void running.get(id as Stop)?.stop());
    cluster.mailbox.onSubscribed(() => void this.check(running.values()));
  }

  /** Stops each log for which Redis has a request, as soon as Redis can be read. Never rejects. */
  async check(logs: Iterable<ProducerLog>): Promise<void> {
    const { clock, commands, running } = this.#options;
    for (const log of logs) {
      const { id } = log.info;
      const isRequested = await commands.isStopRequested(id).catch(() => undefined);
      if (isRequested) await log.stop();
      else if (isRequested === undefined && running.get(id) === log) this.#unread.add(log);
    }
    if (this.#unread.size > 0) this.#cancelRetry ??= clock.after(RETRY_MS, () => this.#retry());
  }

  close(): void {
    this.#cancelRetry?.();
    // A check that is still running leaves no timer behind.
    this.#cancelRetry = () => {};
  }

  #retry(): void {
    this.#cancelRetry = undefined;
    const logs = [...this.#unread];
    this.#unread.clear();
    void this.check(logs);
  }
}
