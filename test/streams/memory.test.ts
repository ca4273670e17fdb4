import t from 'tap';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import type { LogReader, WritableLog } from '../../plugins/streams/types.ts';
import type { ContentPart } from '../../providers/types.ts';
import { heapBytes } from '../heap.ts';
import { manualClock } from '../manual-clock.ts';
import { newId } from './conformance.ts';

/** Measures the memory of stored answers and of waiting readers. */

const ANSWERS = 300;
const TOKENS = 4_000;

const tokens: Record<string, (i: number) => ContentPart | undefined> = {
  'one word': (i) => (i === 0 ? { type: 'text', text: 'yes' } : undefined),
  English: (i) => ({ type: 'text', text: ` word${i % 10}` }),
  Chinese: (i) => ({ type: 'text', text: i % 2 ? '世界' : '你好' }),
  'English with emoji': (i) => ({ type: 'text', text: i % 50 ? ` word${i % 10}` : '🚀' }),
  'reasoning, then text': (i) => ({ type: i < TOKENS / 2 ? 'reasoning' : 'text', text: ` token${i % 10}` }),
  'tool arguments': (i) =>
    i === 0
      ? { type: 'tool_call', index: 0, id: 'call_1', name: 'f', arguments: '' }
      : { type: 'tool_call', index: 0, arguments: `"k${i % 10}":` },
};

const contentOf = (part: ContentPart | undefined) => (part?.type === 'tool_call' ? part.arguments : (part?.text ?? ''));

function store() {
  return new MemoryStore({
    clock: manualClock(),
    highWaterMark: 16_384,
    flushMs: 0,
    ttlMs: 1e6,
    maxTotalBytes: 1e12,
    onEvicted() {},
  });
}

for (const [name, token] of Object.entries(tokens)) {
  t.test(
    `${name}: a stored answer takes at most twice its UTF-8 bytes, 4 bytes for each append, and 4 KiB`,
    async (t) => {
      const logs = store();
      const fill = async () => {
        const { log } = await logs.create({ id: newId(), model: 'm', graceMs: 0, owner: 'o' });
        // Decoded from bytes, as tokens from a socket are. Otherwise all of them would share one string.
        for (let i = 0; i < TOKENS; i++) {
          const part = token(i);
          if (part === undefined) break;
          const content = Buffer.from(contentOf(part)).toString();
          void log.append(part.type === 'tool_call' ? { ...part, arguments: content } : { ...part, text: content });
        }
        log.end({ type: 'end', finishReason: 'stop' });
      };
      await fill();
      const before = heapBytes();
      for (let i = 0; i < ANSWERS; i++) await fill();
      const bytesPerAnswer = (heapBytes() - before) / ANSWERS;
      let bytes = 0;
      let appends = 0;
      for (let i = 0; i < TOKENS; i++) {
        const part = token(i);
        bytes += Buffer.byteLength(contentOf(part));
        if (part !== undefined) appends += 1;
      }
      const most = 2 * bytes + 4 * appends + 4_096;
      t.comment(`${Math.round(bytesPerAnswer)} bytes for ${bytes} bytes of UTF-8`);
      t.ok(bytesPerAnswer <= most, `${Math.round(bytesPerAnswer)} ≤ ${most}`);
      t.ok(bytesPerAnswer >= bytes / 2, 'the measurement includes the answers');
      await logs.close();
    },
  );
}

t.test('a waiting reader takes less than 2 KiB', async (t) => {
  const logs = store();
  const { log } = await logs.create({ id: newId(), model: 'm', graceMs: 0, owner: 'o' });
  const attach = async (log: WritableLog, readers: LogReader[]) => {
    const reader = await log.read(0);
    void reader.next();
    readers.push(reader);
  };
  const readers: LogReader[] = [];
  await attach(log, readers);
  const before = heapBytes();
  for (let i = 0; i < 5_000; i++) await attach(log, readers);
  const bytesPerReader = (heapBytes() - before) / 5_000;
  t.comment(`${Math.round(bytesPerReader)} bytes`);
  t.ok(bytesPerReader < 2_048, `${Math.round(bytesPerReader)} bytes`);
  t.ok(bytesPerReader > 0, 'the measurement includes the readers');
  for (const reader of readers) reader.close();
});
