import t from 'tap';
import type { StoredAnswer } from '../../plugins/responses/api.ts';
import { MemoryResponses, type MemoryResponsesOptions } from '../../plugins/responses/memory-store.ts';
import type { SavedQuestion } from '../../plugins/responses/types.ts';
import { UnsavedQuestions } from '../../plugins/responses/unsaved.ts';
import { manualClock } from '../manual-clock.ts';

/** Times and bounds of responses that are kept in memory. */

const TTL_MS = 10_000;
const LONGEST_MS = 50_000;
const STREAM_TTL_MS = 30_000;

const question = (owner = 'o', request = '{}'): SavedQuestion => ({ owner, createdAt: 1, request });
const answer = (text = 'x'): StoredAnswer => ({
  parts: [{ type: 'text', text }],
  terminal: { type: 'end', finishReason: 'stop' },
  endedAt: 2,
  status: 'completed',
});

function create(options: Partial<MemoryResponsesOptions> = {}) {
  const clock = manualClock();
  let evicted = 0;
  const store = new MemoryResponses({
    ...{
      ttlMs: TTL_MS,
      streamTtlMs: STREAM_TTL_MS,
      maxPerOwner: 100,
      maxBytesPerOwner: 2 ** 30,
      maxTotalBytes: 2 ** 30,
      clock,
    },
    maxLogMs: () => LONGEST_MS,
    onEvicted: (count) => {
      evicted += count;
    },
    ...options,
  });
  return { store, clock, evicted: () => evicted };
}

t.test('a response lives for the time to live from the end of its answer', async (t) => {
  const { store, clock } = create();
  await store.save('a', question());
  clock.advance(LONGEST_MS);
  store.keepAnswer('a', 'o', answer());
  clock.advance(TTL_MS - 1);
  t.match(await (await store.find('a'))?.readAnswer(), answer());
  clock.advance(1);
  t.equal(await store.find('a'), undefined);
  clock.advance(60_000);
  t.equal(clock.pending, 0, 'an empty store has no timer');
});

t.test('the question of an answer that never ends expires', async (t) => {
  const { store, clock } = create();
  await store.save('a', question());
  clock.advance(LONGEST_MS + TTL_MS - 1);
  t.match(await store.find('a'), { question: question() });
  clock.advance(1);
  t.equal(await store.find('a'), undefined);
  clock.advance(60_000);
  t.equal(clock.pending, 0);
});

t.test('an answer waits a minute for its question, and then lives its full time', async (t) => {
  const { store, clock } = create({ ttlMs: 100_000 });
  store.keepAnswer('a', 'o', answer());
  store.keepAnswer('b', 'o', answer());
  t.equal(await store.find('a'), undefined, 'nobody has asked for it to be kept');
  clock.advance(59_999);
  await store.save('a', question());
  clock.advance(60_000);
  await store.save('b', question());
  t.match(await (await store.find('a'))?.readAnswer(), answer());
  t.equal(await (await store.find('b'))?.readAnswer(), undefined, 'it was given up');
  clock.advance(39_999);
  t.ok(await store.find('a'));
  clock.advance(1);
  t.equal(await store.find('a'), undefined);
});

t.test('an answer whose question was saved before it lives its full time as well', async (t) => {
  const { store, clock } = create({ ttlMs: 100_000 });
  await store.save('a', question());
  store.keepAnswer('a', 'o', answer());
  clock.advance(99_999);
  t.ok(await store.find('a'));
  clock.advance(1);
  t.equal(await store.find('a'), undefined);
});

t.test('a question that is saved again stays as it was, and counts once', async (t) => {
  const { store, evicted } = create({ maxBytesPerOwner: 50_000 });
  for (let i = 0; i < 5; i++) await store.save('a', { ...question('o', 'x'.repeat(10_000)), createdAt: i });
  t.equal((await store.find('a'))?.question.createdAt, 0);
  await store.save('b', question('o', 'x'.repeat(10_000)));
  t.ok(await store.find('a'));
  t.equal(evicted(), 0);
});

t.test('an answer that runs longer than streams are kept does not come back after it was deleted', async (t) => {
  const { store, clock } = create();
  await store.save('a', question());
  await store.delete('a');
  clock.advance(LONGEST_MS);
  t.equal(store.keepAnswer('a', 'o', answer()), false);
});

t.test('what has expired takes no room after a minute, and an end leaves no timer', async (t) => {
  const { store, clock, evicted } = create({ ttlMs: 100_000, maxTotalBytes: 150_000 });
  for (const id of ['a', 'b', 'c']) store.keepAnswer(id, 'o', answer('x'.repeat(20_000)));
  t.equal(clock.pending, 1, 'one timer for all');
  clock.advance(60_000);
  await store.save('d', question('o', 'x'.repeat(60_000)));
  t.equal(evicted(), 0);
  await store.close();
  t.equal(clock.pending, 0);
});

t.test('what was deleted does not come back', async (t) => {
  const { store, clock } = create();
  await store.save('running', question());
  await store.delete('running');
  await store.save('running', question());
  t.equal(await store.find('running'), undefined);
  t.equal(store.keepAnswer('running', 'o', answer()), false);
  t.equal(await store.find('running'), undefined);
  await store.save('ended', question());
  t.equal(store.keepAnswer('ended', 'o', answer()), true);
  await store.delete('ended');
  clock.advance(STREAM_TTL_MS - 1);
  for (const id of ['running', 'ended']) {
    await store.save(id, question());
    t.equal(await store.find(id), undefined, `${id}: its stream may still be found by a repeated request`);
  }
  clock.advance(60_001);
  for (const id of ['running', 'ended']) {
    await store.save(id, question());
    t.ok(await store.find(id), `${id}: no longer remembered`);
    await store.delete(id);
  }
  await store.save('never ends', question());
  await store.delete('never ends');
  clock.advance(LONGEST_MS + TTL_MS + 60_000);
  t.equal(clock.pending, 0, 'nothing is kept of it');
});

t.test('what was evicted does not come back either, but its end is announced', async (t) => {
  const { store } = create({ maxPerOwner: 1 });
  for (const id of ['running', 'ended', 'last']) {
    await store.save(id, question());
    if (id === 'ended') store.keepAnswer(id, 'o', answer());
  }
  for (const id of ['running', 'ended']) {
    await store.save(id, question());
    t.equal(await store.find(id), undefined, id);
  }
  t.equal(store.keepAnswer('running', 'o', answer()), true);
  await store.save('running', question());
  t.equal(await store.find('running'), undefined, 'after its end');
  t.ok(await store.find('last'));
});

t.test('a bounded number of removed responses is remembered', async (t) => {
  const { store } = create();
  for (let i = 0; i <= 32_768; i += 1) {
    await store.save(`${i}`, question());
    await store.delete(`${i}`);
  }
  for (const id of ['0', '1']) await store.save(id, question());
  t.ok(await store.find('0'), 'the oldest is forgotten');
  t.equal(await store.find('1'), undefined);
});

t.test('bounds count questions and answers, of one owner and of all', async (t) => {
  const { store, evicted } = create({ maxPerOwner: 3, maxBytesPerOwner: 100_000, maxTotalBytes: 150_000 });
  const kept = async (...ids: string[]) => {
    const found = await Promise.all(ids.map((id) => store.find(id)));
    return ids.filter((_, i) => found[i] !== undefined).join('');
  };
  for (const id of ['a', 'b', 'c', 'd']) await store.save(id, question());
  t.equal(await kept('a', 'b', 'c', 'd'), 'bcd', 'the oldest of the owner goes');
  store.keepAnswer('d', 'o', answer('x'.repeat(48_000)));
  t.equal(await kept('b', 'c', 'd'), 'cd', 'answers count, with two bytes for a character');
  await store.save('e', question('p', 'x'.repeat(20_000)));
  t.equal(await kept('c', 'd', 'e'), 'cde', 'another owner has its own bounds');
  await store.save('f', question('p', 'x'.repeat(4_800)));
  t.equal(await kept('c', 'd', 'e', 'f'), 'def', 'the oldest of all goes');
  t.equal(evicted(), 3);
  await store.delete('d');
  await store.save('g', question('q', 'x'.repeat(40_000)));
  t.equal(await kept('e', 'f', 'g'), 'efg', 'a deleted one counts no more');
  store.keepAnswer('c', 'o', answer('x'.repeat(60_000)));
  t.equal(await kept('c', 'e', 'f', 'g'), 'efg', 'an answer that exceeds the bounds alone is not kept');
  const call = { type: 'tool_call', index: 0, id: 'i', name: 'n', arguments: 'x'.repeat(60_000) } as const;
  store.keepAnswer('g', 'q', { ...answer(), parts: [call] });
  t.equal(await kept('g'), '', 'the arguments of a tool call count');
  await store.save('h', question('r'));
  const state = { provider: 'p', data: 'x'.repeat(60_000) };
  store.keepAnswer('h', 'r', { ...answer(), terminal: { type: 'end', finishReason: 'stop', state } as never });
  t.equal(await kept('h'), '', 'and so does the state of a provider');
});

t.test('questions that Redis refuses wait in order, and the oldest is given up', async (t) => {
  let renew = () => {};
  let accepts = false;
  let dropped = 0;
  const written: string[] = [];
  const unsaved = new UnsavedQuestions({
    lease: {
      onRenewed(listener) {
        renew = listener;
      },
    },
    async write(id) {
      if (!accepts) throw new Error('unavailable');
      written.push(id);
    },
    onDropped: () => void dropped++,
  });
  const long = 'x'.repeat(3_000_000);
  for (const id of ['a', 'b', 'c']) unsaved.add(id, question('o', long));
  t.equal(dropped, 1, '16 MB wait');
  t.equal(unsaved.get('a'), undefined);
  unsaved.add('b', question('o', long));
  t.equal(dropped, 1, 'the same one counts once');
  unsaved.add('d', question());
  unsaved.delete('d');
  renew();
  await new Promise(setImmediate);
  t.same(written, []);
  accepts = true;
  renew();
  renew();
  await new Promise(setImmediate);
  t.same(written, ['c', 'b'], 'each is written once');
  unsaved.add('e', question());
  await unsaved.close();
  t.same(written, ['c', 'b', 'e'], 'the end of the process writes the rest');
});
