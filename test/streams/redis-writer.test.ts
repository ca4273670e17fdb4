import t from 'tap';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import type { StreamCommands } from '../../plugins/streams/redis/commands.ts';
import { CommitGroup } from '../../plugins/streams/redis/producer/commit-group.ts';
import { LogWriter } from '../../plugins/streams/redis/producer/writer.ts';
import { manualClock } from '../manual-clock.ts';
import { newId, text } from './conformance.ts';

/** Tests the writer against a fake Redis that the test can empty between two steps. */

const turn = () => new Promise((resolve) => setImmediate(resolve));

t.test('parts that wait for the flush while Redis is found empty are written in order', async (t) => {
  const clock = manualClock();
  const local = new MemoryStore({
    clock,
    highWaterMark: 1e6,
    flushMs: 0,
    ttlMs: 1_000,
    maxTotalBytes: 1e8,
    onEvicted() {},
  });
  t.teardown(() => local.close());
  const { log: memory } = await local.create({ id: newId(), model: 'm', graceMs: 1_000, owner: 'o' });
  let entries: { position: number; units: number }[] = [];
  let restored: (position: number) => void = () => {};
  const commands = {
    async append(_id: string, _epoch: number, position: number, parts: { part: { text: string } }[]) {
      entries.push({ position, units: parts.reduce((sum, { part }) => sum + part.text.length, 0) });
      return true;
    },
    restore: () => new Promise<number>((resolve) => (restored = resolve)),
  } as unknown as StreamCommands;
  const lease = { isHeld: true, renewedForMs: 1e6, onMissing() {}, onRenewed() {}, renew() {}, close: async () => {} };
  const writer = new LogWriter({
    memory,
    keys: { info: memory.info },
    commands,
    clock,
    commits: new CommitGroup({ clock, flushMs: 10, together: (send) => send() }),
    epoch: 1,
    isSynced: true,
    lease,
    connection: { isAvailable: true },
    events: { onUnsynced() {}, onCompared() {}, onFenced() {}, onDone() {} },
  });
  writer.push(text('one '));
  await turn();
  writer.push(text('two '));
  const verified = writer.verify();
  await turn();
  entries = [];
  writer.push(text('three '));
  restored(0);
  await turn();
  writer.push(text('four '));
  await turn();
  clock.advance(100);
  restored(0);
  await verified;
  await turn();
  const { parts } = memory.sliceFrom(0);
  t.same(
    parts.map(({ part }) => part),
    [text('one two three four ')],
  );
  let end = 0; // The end of the entry before.
  for (const { position, units } of entries) {
    t.equal(position - units, end, `an entry starts at ${end}, where the one before ends`);
    end = position;
  }
  t.equal(end, memory.length, 'Redis has the whole log');
  t.equal(writer.isSynced, true);
});
