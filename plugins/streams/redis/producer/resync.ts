import type { MemoryLog } from '../../memory/log.ts';
import { partSize } from '../../units.ts';
import type { StreamCommands, StreamKeys } from '../commands.ts';

export interface ResyncOptions {
  readonly memory: MemoryLog;
  readonly keys: StreamKeys;
  readonly commands: StreamCommands;
  readonly epoch: number;
}

/**
 * Writes to Redis what it lacks of a log: all of it if Redis was emptied. Returns the position up to
 * which Redis has the log, `taken` if another replica is the producer, or `gone` if Redis was emptied
 * meanwhile.
 *
 * @throws RedisUnavailable, or the error reply of Redis
 */
export async function resync(
  { memory, keys, commands, epoch }: ResyncOptions,
  restore: () => Promise<number | undefined>,
): Promise<number | 'gone' | 'taken'> {
  const { id } = keys.info;
  const restored = await restore();
  if (restored === undefined) return 'taken';
  let position: number = restored;
  while (position < memory.length) {
    const parts = memory.mergedFrom(position);
    position += parts.reduce((sum, { part }) => sum + partSize(part), 0);
    if (!(await commands.append(id, epoch, position, parts))) return 'gone';
  }
  const { terminal } = memory;
  // A position greater than the length means that Redis has the terminal already.
  if (terminal === undefined || position > memory.length) return position;
  return (await commands.end(keys, epoch, position, terminal)) ? position : 'gone';
}
