import t from 'tap';
import type { StreamCommands } from '../../plugins/streams/redis/commands.ts';
import { END_POSITION } from '../../plugins/streams/redis/entries.ts';
import { isStaleProducerError } from '../../plugins/streams/redis/stale-producer.ts';
import type { StreamInfo, Terminal } from '../../plugins/streams/types.ts';
import type { ContentPart } from '../../providers/types.ts';
import { noRedis, startRedis } from '../redis.ts';
import { merged, newId, text } from './conformance.ts';
import { createReplicas, type TestReplica } from './replica-pair.ts';

/** The commands and scripts in a real Redis: what they return, and what they leave there. */

const END: Terminal = { type: 'end', finishReason: 'stop' };
/** An error that passes. */
const FAILURE: Terminal = { type: 'error', code: 'upstream_failed', message: 'm', status: 502, retryable: true };
const TTL_MS = 300_000;
const MAX_LOG_MS = 600_000;
const ACTIVE_TTL_MS = TTL_MS + MAX_LOG_MS;

t.test('commands', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);
  const replicas = await createReplicas(t, url);
  const { redis, streamKey, leaseKey } = replicas;
  const [a, b] = [await replicas.add(), await replicas.add()] as [TestReplica, TestReplica];
  const commands: StreamCommands = a.commands;
  t.beforeEach(async () => {
    await redis.flushall();
    for (const { id } of [a, b]) await redis.set(leaseKey(id), '1');
  });

  const keysOf = (info: Partial<StreamInfo> = {}, idempotent = true) => ({
    info: { id: newId(), model: 'm', graceMs: 15_000, owner: 'o', chat: 'the chat', ...info },
    ...(idempotent && { idempotency: { key: 'the key', fingerprint: 'f' } }),
  });
  /** All keys of streams, by kind, with their times to live rounded to seconds. */
  const expiries = async () => {
    await replicas.settle();
    const found: Record<string, number> = {};
    for (const name of await redis.keys('*')) {
      const kind = name.split(':')[1] as string;
      if (kind !== '{replica}') found[kind] = Math.round((await redis.pttl(name)) / 1_000) * 1_000;
    }
    return found;
  };
  const meta = (id: string) => redis.hgetall(streamKey('meta', id));
  const producer = (replica: TestReplica, epoch = 1) => ({ replica: replica.id, epoch });

  t.test('create: everything of the stream expires after the longest answer and the time to live', async (t) => {
    const keys = keysOf();
    t.equal(await commands.create(keys, 'the prompt'), undefined);
    t.same(await expiries(), { meta: ACTIVE_TTL_MS, log: ACTIVE_TTL_MS, key: ACTIVE_TTL_MS, chat: ACTIVE_TTL_MS });
    t.same(await meta(keys.info.id), {
      info: JSON.stringify(keys.info),
      producer: a.id,
      epoch: '1',
      format: '1',
      question: 'the prompt',
    });
    t.same(await commands.meta(keys.info.id), { info: keys.info, replica: a.id, epoch: 1, hasEnded: false });
    t.same(await commands.byKey(keys.idempotency as { key: string; fingerprint: string }), {
      id: keys.info.id,
      fingerprint: 'f',
    });
    t.equal(await commands.byChat('the chat'), keys.info.id);
    const names = await redis.keys('*');
    t.notOk(
      names.some((name) => name.includes('the ')),
      'names of clients are hashed',
    );
  });

  t.test('create: a stream without prompt, key and conversation has nothing of them', async (t) => {
    const keys = keysOf({ chat: undefined }, false);
    await commands.create(keys);
    t.same(await expiries(), { meta: ACTIVE_TTL_MS, log: ACTIVE_TTL_MS });
    t.notOk('question' in (await meta(keys.info.id)));
    t.equal(await commands.byKey({ key: 'the key', fingerprint: 'f' }), undefined);
    t.equal(await commands.byChat('the chat'), undefined);
  });

  t.test('create: the stream of a known key is returned, and nothing is changed', async (t) => {
    const first = keysOf();
    await commands.create(first);
    const second = keysOf({ chat: 'another' });
    t.same(await b.commands.create({ ...second, idempotency: { key: 'the key', fingerprint: 'g' } }), {
      id: first.info.id,
      fingerprint: 'f',
    });
    t.same(await meta(second.info.id), {});
    t.equal(await commands.byChat('another'), undefined);
    t.equal(await commands.byChat('the chat'), first.info.id);
  });

  t.test('create: a key whose stream is missing stands for the new stream', async (t) => {
    const first = keysOf();
    await commands.create(first);
    await redis.del(streamKey('meta', first.info.id));
    const second = keysOf();
    t.equal(await commands.create(second), undefined);
    t.equal((await commands.byKey({ key: 'the key', fingerprint: 'f' }))?.id, second.info.id);
  });

  t.test('create: a stream that failed before its first part loses its key to the same question', async (t) => {
    const first = keysOf();
    await commands.create(first);
    await commands.end(first, 1, 0, FAILURE);
    t.match(await meta(first.info.id), { ended: '1', repeatable: '1' });
    const byKey = (fingerprint = 'f') => commands.byKey({ key: 'the key', fingerprint });
    t.equal(await byKey(), undefined);
    t.same(await byKey('g'), { id: first.info.id, fingerprint: 'f' }, 'another question finds the conflict');
    const other = { ...keysOf(), idempotency: { key: 'the key', fingerprint: 'g' } };
    t.same(await b.commands.create(other), { id: first.info.id, fingerprint: 'f' });
    const second = keysOf();
    t.equal(await b.commands.create(second), undefined);
    t.same(await byKey(), { id: second.info.id, fingerprint: 'f' });
    t.same(await commands.create(keysOf()), { id: second.info.id, fingerprint: 'f' }, 'once');
    t.ok(await commands.meta(first.info.id), 'the first stream is still stored');
  });

  t.test('end: only a failure that passes, of a stream without a part, is repeatable', async (t) => {
    for (const [terminal, length, expected] of [
      [FAILURE, 0, '1'],
      [FAILURE, 1, undefined],
      [{ ...FAILURE, retryable: false }, 0, undefined],
      [END, 0, undefined],
    ] as const) {
      const keys = keysOf({}, false);
      await commands.create(keys);
      await commands.end(keys, 1, length, terminal);
      t.equal((await meta(keys.info.id)).repeatable, expected, `${terminal.type} ${length}`);
    }
  });

  t.test('end: the key of a later stream keeps its time to live', async (t) => {
    const [first, second] = [keysOf(), keysOf()];
    await commands.create(first);
    await redis.del(await redis.keys('*:key:*'));
    await commands.create(second);
    await commands.end(first, 1, 0, END);
    t.equal((await expiries()).key, ACTIVE_TTL_MS);
    await commands.end(second, 1, 0, END);
    t.equal((await expiries()).key, TTL_MS);
  });

  t.test('restore: a stream takes its key from the one that it replaces, and from no other', async (t) => {
    const [first, second] = [keysOf(), keysOf()];
    const holder = async () => (await commands.byKey({ key: 'the key', fingerprint: 'f' }))?.id;
    await commands.create(first);
    await commands.restore({ ...second, replaced: newId() }, 1);
    t.equal(await holder(), first.info.id, 'another stream has the key');
    await commands.deleteStream(keysOf({ id: second.info.id, chat: undefined }, false));
    await commands.restore({ ...second, replaced: first.info.id }, 1);
    t.equal(await holder(), second.info.id);
    await commands.restore(first, 1);
    t.equal(await holder(), second.info.id, 'the replaced stream does not get it back');
  });

  t.test('every key that a script uses is declared, and all of them are in one slot', async (t) => {
    const used: string[][] = [];
    const monitor = await redis.monitor();
    monitor.on('monitor', (_time: string, command: string[], source: string) => {
      if (source === 'lua' || /^(evalsha|del)$/i.test(command[0] ?? ''))
        used.push(source === 'lua' ? ['lua', ...command] : command);
    });
    for (const info of [{}, { chat: undefined }]) {
      for (const idempotent of [true, false]) {
        const keys = keysOf(info, idempotent);
        const { id } = keys.info;
        await commands.create(keys, 'the prompt');
        await commands.create(keysOf(info, idempotent), 'the prompt');
        await commands.append(id, 1, 3, merged(text('one')));
        await commands.restore(keys, 1);
        await commands.requestStop(id);
        await commands.release(id, 1);
        await b.commands.takeOver(id, producer(a));
        await b.commands.end(keys, 2, 3, END);
        await commands.deleteStream(keys);
        const [failed, replacing] = [keysOf(info, idempotent), keysOf(info, idempotent)];
        await commands.create(failed);
        await commands.end(failed, 1, 0, FAILURE);
        await commands.create(replacing);
        await redis.del(streamKey('meta', replacing.info.id));
        await commands.restore({ ...replacing, replaced: failed.info.id }, 1);
        await commands.deleteStream(replacing);
      }
    }
    await redis.ping();
    monitor.disconnect();
    let declared: string[] = [];
    let checked = 0;
    for (const [name = '', first = '', second = '', ...rest] of used) {
      if (name !== 'lua') {
        declared = /^del$/i.test(name) ? [first, second, ...rest] : rest.slice(0, Number(second));
        declared = declared.filter((declaredKey) => declaredKey !== '' || !/^del$/i.test(name));
        t.notOk(declared.includes(''), 'no key is empty');
        const tags = new Set(declared.map((declaredKey) => /\{(.+?)\}/.exec(declaredKey)?.[1] ?? declaredKey));
        t.equal(tags.size, 1, `${declared} are in one slot`);
      } else {
        t.ok(declared.includes(second), `${first} ${second} is declared`);
        checked += 1;
      }
    }
    t.ok(checked > 50, `${checked} commands of scripts`);
  });

  t.test('deleteStream: nothing is left', async (t) => {
    const keys = keysOf();
    await commands.create(keys, 'the prompt');
    await commands.deleteStream(keys);
    t.same(await expiries(), {});
    const bare = keysOf({ chat: undefined }, false);
    await commands.create(bare);
    await commands.deleteStream(bare);
    t.same(await expiries(), {});
  });

  t.test('end: the question and the conversation are deleted, and the rest lives for the time to live', async (t) => {
    const keys = keysOf();
    const { id } = keys.info;
    await commands.create(keys, 'the prompt');
    await commands.append(id, 1, 3, merged(text('one')));
    t.equal(await commands.end(keys, 1, 3, END), true);
    t.same(await expiries(), { meta: TTL_MS, log: TTL_MS, key: TTL_MS });
    t.same(await meta(id), { info: JSON.stringify(keys.info), producer: a.id, epoch: '1', format: '1', ended: '1' });
    t.equal(await commands.byChat('the chat'), undefined);
    const entries = await commands.entriesAfter(id, '0-0', 10);
    t.same(entries.at(-1)?.terminal, END);
    t.equal(entries.at(-1)?.position, 3, 'the length of the log, not the position in its id');
    await t.rejects(commands.append(id, 1, 4, merged(text('x'))), 'nothing of this producer can follow');
  });

  t.test('end: a newer stream of the conversation stays', async (t) => {
    const [first, second] = [keysOf({}, false), keysOf({}, false)];
    await commands.create(first);
    await commands.create(second);
    await commands.end(first, 1, 0, END);
    t.equal(await commands.byChat('the chat'), second.info.id);
    await commands.end(second, 1, 0, END);
    t.equal(await commands.byChat('the chat'), undefined);
  });

  t.test('end and append: a log that is missing is not created', async (t) => {
    const keys = keysOf();
    t.equal(await commands.append(keys.info.id, 1, 3, merged(text('one'))), false);
    t.equal(await commands.end(keys, 1, 3, END), false);
    t.same(await expiries(), {});
  });

  t.test('append: parts come back as they were written', async (t) => {
    const { info } = keysOf();
    await commands.create({ info });
    const parts: ContentPart[] = [
      text('text 你🚀'),
      { type: 'reasoning', text: 'thinking' },
      text('half a pair: \ud83d'),
      { type: 'reasoning', text: '\ude80 the other half' },
      { type: 'tool_call', index: 1, id: 'i', name: 'n', arguments: '{' },
    ];
    await commands.append(info.id, 1, 100, merged(...parts));
    const entries = await commands.entriesAfter(info.id, '0-0', 10);
    t.same(entries[0], { id: '1-0', position: 0, parts: [], terminal: undefined }, 'the entry of the producer');
    t.same(entries[1], { id: '1-100', position: 100, parts: merged(...parts), terminal: undefined });
    t.same(await commands.entriesAfter(info.id, '1-0', 10), entries.slice(1), 'after an entry');
    t.same(await commands.entriesAfter(info.id, '0-0', 1), entries.slice(0, 1), 'at most a number of entries');
  });

  t.test('append: entries at or before the last position are rejected as stale', async (t) => {
    const { info } = keysOf();
    await commands.create({ info });
    await commands.append(info.id, 2, 3, merged(text('one')));
    for (const [epoch, position] of [
      [1, 100],
      [2, 3],
      [2, 2],
    ] as const) {
      const error = await commands
        .append(info.id, epoch, position, merged(text('x')))
        .catch((reason: unknown) => reason);
      t.equal(isStaleProducerError(error), true, `${epoch}-${position}`);
    }
    await redis.set(streamKey('log', 'wrong'), 'type');
    const error = await commands.append('wrong', 1, 1, merged(text('x'))).catch((reason: unknown) => reason);
    t.ok(error instanceof Error);
    t.equal(isStaleProducerError(error), false, 'other errors are no sign of a newer producer');
    t.equal(isStaleProducerError(new Error('equal or smaller')), false, 'Redis must have sent it');
  });

  t.test('restore: returns the position of the last entry', async (t) => {
    const keys = keysOf();
    const { id } = keys.info;
    await commands.create(keys, 'the prompt');
    t.equal(await commands.restore(keys, 1), 0);
    await commands.append(id, 1, 300, merged(text('x'.repeat(300))));
    t.equal(await commands.restore(keys, 1), 300);
    t.equal((await meta(id)).question, 'the prompt', 'nothing is changed');
    await commands.end(keys, 1, 300, END);
    t.equal(await commands.restore(keys, 1), END_POSITION, 'Redis has the terminal');
    t.equal(END_POSITION, Number.MAX_SAFE_INTEGER, 'a position that survives Lua');
  });

  t.test('restore: another producer or a newer epoch owns the log', async (t) => {
    const keys = keysOf();
    await commands.create(keys);
    t.equal(await b.commands.restore(keys, 1), undefined, 'another replica');
    t.equal(await commands.restore(keys, 2), undefined, 'another epoch');
    t.equal(await commands.restore(keys, 1), 0);
    await redis.del(streamKey('log', keys.info.id));
    t.equal(await b.commands.restore(keys, 1), undefined, 'another replica, without the log');
  });

  for (const [what, lose] of [
    ['everything', async () => void (await redis.flushall())],
    ['the log', async (id: string) => void (await redis.del(streamKey('log', id)))],
    ['the meta data', async (id: string) => void (await redis.del(streamKey('meta', id)))],
  ] as const) {
    t.test(`restore: if ${what} is missing, the stream is created again`, async (t) => {
      const keys = keysOf();
      const { id } = keys.info;
      await commands.create(keys, 'the prompt');
      await commands.append(id, 3, 3, merged(text('one')));
      await redis.hset(streamKey('meta', id), 'epoch', 3, 'stop', 1);
      await lose(id);
      t.equal(await commands.restore(keys, 3), 0);
      t.same(await expiries(), { meta: ACTIVE_TTL_MS, log: ACTIVE_TTL_MS, key: ACTIVE_TTL_MS, chat: ACTIVE_TTL_MS });
      t.same(await meta(id), { info: JSON.stringify(keys.info), producer: a.id, epoch: '3', format: '1' });
      t.same(
        (await commands.entriesAfter(id, '0-0', 10)).map((entry) => entry.id),
        ['3-0'],
      );
      t.equal(await commands.append(id, 3, 3, merged(text('one'))), true, 'the producer can write all of it');
      t.same(await commands.byKey(keys.idempotency as { key: string; fingerprint: string }), { id, fingerprint: 'f' });
    });
  }

  t.test('restore: keys that stand for a newer stream stay', async (t) => {
    const [first, second] = [keysOf(), keysOf()];
    await commands.create(second);
    t.equal(await commands.restore(first, 1), 0);
    t.equal((await commands.byKey({ key: 'the key', fingerprint: 'f' }))?.id, second.info.id);
    t.equal(await commands.byChat('the chat'), second.info.id);
    const bare = keysOf({ chat: undefined }, false);
    await redis.flushall();
    await commands.restore(bare, 1);
    t.same(await expiries(), { meta: ACTIVE_TTL_MS, log: ACTIVE_TTL_MS });
  });

  t.test('takeOver: makes a replica the producer of a log whose producer is dead', async (t) => {
    const keys = keysOf();
    const { id } = keys.info;
    await commands.create(keys, 'the prompt');
    await commands.append(id, 1, 300, merged(text('x'.repeat(300))));
    t.equal(await commands.isAlive(a.id), true);
    t.equal(await b.commands.takeOver(id, producer(a)), undefined, 'the producer is alive');
    await redis.del(leaseKey(a.id));
    t.equal(await commands.isAlive(a.id), false);
    t.equal(await b.commands.takeOver(id, producer(b)), undefined, 'another producer');
    t.equal(await b.commands.takeOver(id, producer(a, 2)), undefined, 'another epoch');
    t.same(await meta(id), {
      info: JSON.stringify(keys.info),
      producer: a.id,
      epoch: '1',
      format: '1',
      question: 'the prompt',
    });
    t.same(await b.commands.takeOver(id, producer(a)), {
      epoch: 2,
      position: 300,
      serializedPrompt: 'the prompt',
      isStopRequested: false,
    });
    t.same(await meta(id), {
      info: JSON.stringify(keys.info),
      producer: b.id,
      epoch: '2',
      format: '1',
      question: 'the prompt',
    });
    t.equal(await b.commands.takeOver(id, producer(a)), undefined, 'only once');
    t.same(
      (await commands.entriesAfter(id, '0-0', 10)).map((entry) => [entry.id, entry.position]),
      [
        ['1-0', 0],
        ['1-300', 300],
        ['2-300', 300],
      ],
    );
    await t.rejects(commands.append(id, 1, 301, merged(text('x'))), 'the old producer can write nothing');
    t.equal(await b.commands.append(id, 2, 301, merged(text('x'))), true);
    t.same(await expiries(), { meta: ACTIVE_TTL_MS, log: ACTIVE_TTL_MS, key: ACTIVE_TTL_MS, chat: ACTIVE_TTL_MS });
  });

  t.test('takeOver: a log without a prompt, an ended log, and a missing one', async (t) => {
    const keys = keysOf();
    const { id } = keys.info;
    await commands.create(keys);
    await redis.del(leaseKey(a.id));
    const takeover = await b.commands.takeOver(id, producer(a));
    t.same(takeover, { epoch: 2, position: 0, serializedPrompt: undefined, isStopRequested: false });
    await redis.del(leaseKey(b.id));
    await b.commands.end(keys, 2, 0, END);
    t.equal(await commands.takeOver(id, producer(b, 2)), undefined, 'the log has ended');
    const other = keysOf({}, false);
    await commands.create(other);
    await redis.del(streamKey('log', other.info.id));
    t.equal(await b.commands.takeOver(other.info.id, producer(a)), undefined, 'the log is missing');
    t.equal((await meta(other.info.id)).producer, a.id);
    t.equal(await b.commands.takeOver(newId(), producer(a)), undefined, 'the stream is missing');
  });

  t.test('release: a log with a prompt is taken over although its producer lives', async (t) => {
    const keys = keysOf();
    const { id } = keys.info;
    await commands.create(keys, 'the prompt');
    t.equal(await b.commands.release(id, 1), false, 'only by its producer');
    t.equal(await commands.release(id, 2), false, 'only in its epoch');
    t.equal(await b.commands.takeOver(id, producer(a)), undefined);
    t.equal(await commands.release(id, 1), true);
    t.equal((await b.commands.takeOver(id, producer(a)))?.serializedPrompt, 'the prompt');
    t.equal(await commands.takeOver(id, producer(b, 2)), undefined, 'the new producer has not released it');
    t.notOk('released' in (await meta(id)));
    const bare = keysOf({}, false);
    await commands.create(bare);
    t.equal(await commands.release(bare.info.id, 1), false, 'nobody could continue it');
    t.equal(await commands.release(newId(), 1), false, 'a missing stream');
  });

  t.test('takeOver: says if a stop is requested', async (t) => {
    const { info } = keysOf();
    await commands.create({ info });
    await b.commands.requestStop(info.id);
    await redis.del(leaseKey(a.id));
    t.equal((await b.commands.takeOver(info.id, producer(a)))?.isStopRequested, true);
  });

  t.test('requestStop: marks a stream, and creates none', async (t) => {
    const keys = keysOf();
    const { id } = keys.info;
    await commands.create(keys);
    t.equal(await commands.isStopRequested(id), false);
    t.equal(await b.commands.requestStop(id), a.id, 'it returns the producer');
    t.equal(await commands.isStopRequested(id), true);
    t.equal((await expiries()).meta, ACTIVE_TTL_MS);
    const missing = newId();
    t.equal(await b.commands.requestStop(missing), undefined);
    t.same(await meta(missing), {});
    t.equal(await redis.exists(streamKey('meta', missing)), 0, 'no key without a time to live');
    t.equal(await commands.isStopRequested(missing), false);
  });

  t.test('meta: incomplete data count as missing', async (t) => {
    for (const field of ['info', 'producer', 'epoch']) {
      const { info } = keysOf();
      await commands.create({ info });
      await redis.hdel(streamKey('meta', info.id), field);
      t.equal(await commands.meta(info.id), undefined, `without ${field}`);
    }
  });

  t.test('scripts run again after Redis has forgotten them; other errors are reported', async (t) => {
    const keys = keysOf({ chat: undefined }, false);
    await commands.create(keys);
    await redis.script('FLUSH');
    const before = a.sent.length;
    t.equal(await commands.restore(keys, 1), 0);
    t.same(a.sent.slice(before), ['evalsha', 'eval']);
    t.equal(await commands.restore(keys, 1), 0);
    t.same(a.sent.slice(before), ['evalsha', 'eval', 'evalsha'], 'by its hash the next time');
    await redis.del(streamKey('meta', keys.info.id));
    await redis.set(streamKey('meta', keys.info.id), 'wrong type');
    await t.rejects(commands.restore(keys, 1), /WRONGTYPE/);
    t.same(a.sent.slice(before), ['evalsha', 'eval', 'evalsha', 'evalsha'], 'it is not sent twice');
  });
});
