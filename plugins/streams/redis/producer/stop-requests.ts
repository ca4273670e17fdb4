import type { Cluster } from '../../../redis/index.ts';
import type { StreamCommands } from '../commands.ts';
import { STOP, type Stop } from '../messages.ts';
import type { ProducerLog } from './log.ts';

/** Stops that other replicas were asked for: by message, or, where one may have been lost, as Redis has it. */
export function handleStopRequests(
  shared: Cluster,
  records: StreamCommands,
  running: ReadonlyMap<string, ProducerLog>,
): void {
  shared.mailbox.on(STOP, (_, id) => void running.get(id as Stop)?.stop());
  shared.mailbox.onSubscribed(async () => {
    for (const log of running.values()) {
      if (await records.isStopRequested(log.info.id).catch(() => false)) await log.stop();
    }
  });
}
