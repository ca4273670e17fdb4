import type { Shared } from '../../../redis/index.ts';
import type { Records } from '../commands.ts';
import { STOP, type Stop } from '../messages.ts';
import type { ProducedLog } from './log.ts';

/** Stops that other replicas were asked for: by message, or, where one may have been lost, as Redis has it. */
export function listenForStops(shared: Shared, records: Records, running: ReadonlyMap<string, ProducedLog>): void {
  shared.inbox.on(STOP, (_, id) => void running.get(id as Stop)?.stop());
  shared.inbox.onOpen(async () => {
    for (const log of running.values()) {
      if (await records.isStopWished(log.info.id).catch(() => false)) await log.stop();
    }
  });
}
