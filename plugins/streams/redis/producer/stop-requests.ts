import type { Cluster } from '../../../redis/index.ts';
import type { StreamCommands } from '../commands.ts';
import { STOP, type Stop } from '../messages.ts';
import type { ProducerLog } from './log.ts';

/**
 * Handles stop requests of other replicas. They arrive as messages. After each new subscription the
 * requests in Redis are read too, because messages may have been lost.
 */
export function handleStopRequests(
  { mailbox }: Pick<Cluster, 'mailbox'>,
  commands: StreamCommands,
  running: ReadonlyMap<string, ProducerLog>,
): void {
  mailbox.on(STOP, (_, id) => void running.get(id as Stop)?.stop());
  mailbox.onSubscribed(async () => {
    for (const log of running.values()) await stopIfRequested(log, commands);
  });
}

/** Stops a log if Redis has a stop request for it. Never rejects. */
export async function stopIfRequested(log: ProducerLog, commands: StreamCommands): Promise<void> {
  if (await commands.isStopRequested(log.info.id).catch(() => false)) await log.stop();
}
