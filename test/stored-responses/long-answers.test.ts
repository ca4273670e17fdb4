import t from 'tap';
import { RedisResponses } from '../../plugins/responses/redis-store.ts';
import { encodeParts, entryId } from '../../plugins/streams/redis/entries.ts';

/** Answers in Redis that are read in several pieces, from a Redis that has only what they need. */

type Entry = [id: string, fields: string[]];

function storeWith(entries: readonly Entry[]): RedisResponses {
  const question = { owner: 'o', createdAt: 1, request: '{}' };
  const redis = {
    hmget: async () => [JSON.stringify(question), '5', '1'],
    async xrange(_key: string, from: string, _to: string, _count: string, count: number) {
      const start = entries.findIndex(([id]) => id === from.slice(1)) + 1;
      return entries.slice(start, start + count);
    },
  };
  const connection = { read: (_key: string, call: (client: typeof redis) => unknown) => call(redis) };
  const key = (...names: string[]) => names.join(':');
  const cluster = { connection, lease: { onRenewed() {} }, key, streamKey: key };
  return new RedisResponses({
    ...{ ttlMs: 1, streamTtlMs: 1, maxPerOwner: 1, maxBytesPerOwner: 1 },
    cluster: cluster as never,
    maxLogMs: () => 1,
    onEvicted() {},
  });
}

function entriesOf(count: number): Entry[] {
  return Array.from({ length: count }, (_, i) => [
    entryId(1, i + 1),
    encodeParts([{ part: { type: 'text', text: String(i % 10) } }]),
  ]);
}

const endAt = (length: number): Entry => [
  '1-9007199254740991',
  ['e', '{"type":"end","finishReason":"stop"}', 'n', String(length)],
];

t.test('an answer is whole, however many entries its log has', async (t) => {
  for (const count of [0, 1, 254, 255, 256, 257, 511, 512, 1_000]) {
    const found = await storeWith([...entriesOf(count), endAt(count)]).find('a');
    const answer = await found?.readAnswer();
    const text = Array.from({ length: count }, (_, i) => i % 10).join('');
    t.same(answer?.parts, count === 0 ? [] : [{ type: 'text', text }], `${count} entries`);
    t.match(answer, { status: 'completed', endedAt: 5, terminal: { finishReason: 'stop' } });
  }
});

t.test('a log without its end is no answer', async (t) => {
  for (const count of [0, 1, 256, 512]) {
    const found = await storeWith(entriesOf(count)).find('a');
    t.equal(await found?.readAnswer(), undefined, `${count} entries`);
  }
});

t.test('an answer of which a node has lost entries counts as lost, wherever they are missing', async (t) => {
  for (const [from, to] of [
    [0, 1],
    [3, 5],
    [255, 257],
    [599, 600],
  ] as const) {
    const entries = entriesOf(600);
    entries.splice(from, to - from);
    const found = await storeWith([...entries, endAt(600)]).find('a');
    t.equal(await found?.readAnswer(), undefined, `without the entries ${from} to ${to}`);
  }
});
