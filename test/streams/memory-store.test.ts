import t from 'tap';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import { manualClock } from '../manual-clock.ts';
import { newId, storeConformance, text } from './conformance.ts';

t.test('the memory store passes the tests of every store', async (t) => {
  storeConformance(t, async (_, settings) => ({ store: new MemoryStore(settings) }));
});

t.test('a reader far behind gets the backlog in several slices, each of whole characters', async (t) => {
  const store = new MemoryStore({
    clock: manualClock(),
    highWaterMark: 1,
    flushMs: 0,
    ttlMs: 1,
    maxTotalBytes: 1e9,
    onEvicted() {},
  });
  t.teardown(() => store.close());
  const { log } = await store.create({ id: newId(), model: 'm', graceMs: 0, owner: 'o' });
  const answer = `x${'🚀'.repeat(100_000)}`;
  for (let i = 0; i < answer.length; i += 1_000) void log.append(text(answer.slice(i, i + 1_000)));
  log.end({ type: 'end', finishReason: 'stop' });
  const reader = await log.read(0);
  let got = '';
  let slices = 0;
  for (;;) {
    const { parts, terminal } = await reader.next();
    for (const { part } of parts) {
      if (part.type === 'tool_call') continue;
      if (!part.text.isWellFormed()) t.fail('a slice ends inside a surrogate pair');
      got += part.text;
    }
    slices += 1;
    if (terminal) break;
  }
  t.equal(got, answer);
  t.ok(slices >= 4, `${slices} slices`);
});
