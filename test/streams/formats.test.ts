import t from 'tap';
import type { Metrics } from '../../plugins/metrics/index.ts';
import type { Cluster } from '../../plugins/redis/index.ts';
import type { StreamCommands } from '../../plugins/streams/redis/commands.ts';
import { FORMAT } from '../../plugins/streams/redis/format.ts';
import { Orphans } from '../../plugins/streams/redis/replica/orphans.ts';
import type { RunningCommands } from '../../plugins/streams/redis/running.ts';
import { createStoreErrors } from '../../plugins/streams/store-errors.ts';
import { NewerFormat } from '../../plugins/streams/types.ts';
import { noRedis, startRedis } from '../redis.ts';
import { createLog, merged, newId, text } from './conformance.ts';
import { createReplicas, follow, type TestReplica, turns } from './replica-pair.ts';

/** Two versions of the service with different formats share a Redis, as during a rolling upgrade. */

const NEWER = 2;

t.test('a rolling upgrade to a newer format', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);
  const setUp = async () => {
    const replicas = await createReplicas(t, url);
    const [old, other] = [await replicas.add(), await replicas.add({ format: NEWER })] as [TestReplica, TestReplica];
    /** Everything in Redis of the streams of this test. */
    const dump = async () => {
      const { redis, key } = replicas;
      const read: Record<string, (name: string) => Promise<unknown>> = {
        meta: (name) => redis.hgetall(name),
        log: (name) => redis.xrange(name, '-', '+'),
        key: (name) => redis.get(name),
        chat: (name) => redis.get(name),
      };
      const names = (await redis.keys(key('*'))).filter((name) => (name.split(':')[1] as string) in read).sort();
      return Promise.all(names.map(async (name) => [name, await read[name.split(':')[1] as string]?.(name)]));
    };
    return { replicas, old, newer: other, dump };
  };
  const info = () => ({ id: newId(), model: 'm', graceMs: 15_000, owner: 'o', chat: newId() });
  const idempotency = () => ({ key: newId(), fingerprint: 'f' });

  t.test('the newer version reads, stops and takes over what the older one has stored', async (t) => {
    const { replicas, old, newer } = await setUp();
    const taken: string[] = [];
    newer.store.onTakeover((log) => void taken.push(log.info.id));
    const log = await createLog(old.store, info());
    void log.append(text('one'));
    await replicas.settle();
    const reader = await follow(await newer.store.open(log.info.id));
    await replicas.settle();
    t.equal(reader.text, 'one');
    await old.die();
    await replicas.advance(10_000);
    t.same(taken, [log.info.id]);
    const meta = await replicas.redis.hgetall(replicas.streamKey('meta', log.info.id));
    t.match(meta, { format: '1', producer: newer.id, epoch: '2' }, 'the stream keeps its format');
  });

  t.test('the older version refuses streams of the newer one, and leaves them as they are', async (t) => {
    const { replicas, old, newer, dump } = await setUp();
    old.store.onTakeover(() => t.fail('nothing is taken over'));
    const [own, key] = [info(), idempotency()];
    const { log } = await newer.store.create(own, key, 'the prompt');
    t.ok('append' in log && log.append(text('one')) === undefined);
    await replicas.settle();
    const before = await dump();
    t.equal(before.length, 4);
    await t.rejects(old.store.open(own.id), NewerFormat);
    await t.rejects(old.store.openByKey(key), NewerFormat, 'a repeated question is not asked again');
    await t.rejects(old.store.openByKey({ key: key.key }), NewerFormat);
    await t.rejects(old.store.create(info(), key), NewerFormat, 'nor if it comes at the same moment');
    await t.rejects(old.store.openByChat(own.chat), NewerFormat);
    t.equal(await old.commands.restore({ info: own, idempotency: key }, 1), undefined, 'it is not restored');
    await newer.die();
    t.equal(await old.commands.takeOver(own.id, { replica: newer.id, epoch: 1 }), undefined, 'it is not taken over');
    await replicas.advance(10_000);
    t.same(await dump(), before, 'nothing in Redis has changed, and no other stream is there');
  });

  t.test('what has another form than the older version knows is not overwritten', async (t) => {
    const { replicas, old, dump } = await setUp();
    const { redis, streamKey } = replicas;
    const own = info();
    await redis.hset(streamKey('meta', own.id), 'format', NEWER, 'else', 'x');
    t.equal(await old.commands.restore({ info: own }, 1), undefined, 'a stream without a producer');
    const [value, key] = ['{"stream":"x"}', idempotency()];
    await old.store.create(info(), key);
    const name = (await redis.keys(replicas.key('key', '*')))[0] as string;
    await redis.set(name, value);
    const before = await dump();
    await t.rejects(old.commands.create({ info: info(), idempotency: key }), NewerFormat);
    await t.rejects(old.commands.byKey(key), NewerFormat);
    t.same(await dump(), before);
  });

  t.test('a newer field in an entry is no text, and is told as a gap', async (t) => {
    const { replicas, old, newer } = await setUp();
    const log = await createLog(newer.store, info());
    await replicas.redis.hset(replicas.streamKey('meta', log.info.id), 'format', 1);
    await newer.commands.append(log.info.id, 1, 3, merged(text('one')));
    await replicas.redis.xadd(replicas.streamKey('log', log.info.id), '1-6', 'z', 'two');
    const reader = await follow(await old.store.open(log.info.id));
    await replicas.settle();
    t.equal(reader.text, 'one');
    t.match(reader.last?.terminal, { type: 'error', code: 'stream_lost' });
  });
});

t.test('streams of a newer format are left to the replicas of that version when their producer is dead', async (t) => {
  const [known, newer] = [
    { id: newId(), model: 'm', graceMs: 0, owner: 'o' },
    { id: newId(), model: 'm', graceMs: 0, owner: 'o' },
  ];
  let isNewerGone = false;
  const taken: string[] = [];
  const forgotten: string[] = [];
  let renew = () => {};
  new Orphans({
    cluster: {
      lease: {
        renewedForMs: 60_000,
        onRenewed: (listener: () => void) => {
          renew = listener;
        },
      },
    } as unknown as Cluster,
    commands: {
      isAlive: async () => false,
      meta: async (id: string) => {
        if (id === newer.id) throw new NewerFormat('2');
        return { info: known, replica: 'dead', epoch: 1, hasEnded: false };
      },
    } as unknown as StreamCommands,
    running: {
      announce: async () => {},
      others: async () => ['dead'],
      of: async () => (isNewerGone ? [known.id] : [newer.id, known.id]),
      forget: async (replica: string) => void forgotten.push(replica),
    } as unknown as RunningCommands,
    takeOver: async ({ info }) => void taken.push(info.id),
    confirmTakeovers: async () => {},
  });
  const look = async (times: number) => {
    for (let i = 0; i < 2 * times; i++) {
      renew();
      await turns();
    }
  };
  await look(3);
  t.same([taken, forgotten], [[known.id], []], 'the other stream is taken over, and the names stay');
  isNewerGone = true;
  await look(1);
  t.same(forgotten, ['dead'], 'until the newer stream has ended');
});

t.test('a stream of a newer format is a temporary refusal, logged once for each format', async (t) => {
  const logged: unknown[] = [];
  const refused: unknown[] = [];
  const { mapStoreErrors } = createStoreErrors({
    apiError: (fields) => Object.assign(new Error(fields.message), fields),
    metrics: { refusals: { inc: (labels: unknown) => refused.push(labels) } } as unknown as Metrics,
    log: { warn: (fields: unknown, text: string) => logged.push([fields, text]) } as never,
  });
  for (const format of ['2', '2', '3']) {
    const error = { status: 503, code: 'overloaded', retryAfterMs: 5_000, message: /newer version/ };
    await t.rejects(mapStoreErrors(Promise.reject(new NewerFormat(format))), error);
  }
  t.match(logged, [
    [{ format: '2', known: FORMAT }, /newer format/],
    [{ format: '3', known: FORMAT }, /newer format/],
  ]);
  t.equal(logged.length, 2);
  t.same(refused, [{ reason: 'version' }, { reason: 'version' }, { reason: 'version' }]);
});
