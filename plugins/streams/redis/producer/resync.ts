import type { MemoryLog } from '../../memory/log.ts';
import type { StreamCommands, StreamKeys } from '../commands.ts';

/**
 * Gives Redis what it lacks of a log: all of it, where Redis was emptied. Returns how far Redis has it
 * now; `taken`: another replica is the producer; `gone`: Redis was emptied meanwhile.
 *
 * @throws RedisAway, or what Redis says
 */
export async function resync(
  memory: MemoryLog,
  names: StreamKeys,
  records: StreamCommands,
  epoch: number,
): Promise<number | 'gone' | 'taken'> {
  const { id } = names.info;
  const found = await records.restore(names, epoch);
  if (found === undefined) return 'taken';
  let position: number = found;
  while (position < memory.length) {
    const placed = memory.sliceFrom(position).parts;
    position = placed.at(-1)?.position ?? memory.length;
    const parts = placed.map(({ part }) => part);
    if (!(await records.append(id, epoch, position, parts))) return 'gone';
  }
  const { terminal } = memory;
  // Past the length: Redis has the end already.
  if (terminal === undefined || position > memory.length) return position;
  return (await records.end(names, epoch, position, terminal)) ? position : 'gone';
}
