import { EventEmitter } from 'node:events';
import { Cluster, type Redis } from 'ioredis';
import t from 'tap';
import type { Metrics } from '../../plugins/metrics/index.ts';
import { createRedisConnection } from '../../plugins/redis/connection.ts';
import { createHealth } from '../../plugins/redis/health.ts';
import { watchNodes } from '../../plugins/redis/node-changes.ts';
import { manualClock } from '../manual-clock.ts';

/** Changes of the nodes of a cluster, on a clock turned by hand. */

function setUp() {
  const clock = manualClock();
  const source = Object.assign(new EventEmitter(), { slots: [['a', 'a2'], undefined, ['b', 'b2']] as string[][] });
  let reports = 0;
  const stop = watchNodes(source, clock, () => {
    reports += 1;
  });
  return { clock, source, stop, reports: () => reports };
}

t.test('reports nodes that come and go, several at once as one', async (t) => {
  const { clock, source, stop, reports } = setUp();
  source.emit('-node');
  source.emit('+node');
  t.equal(reports(), 0);
  clock.advance(100);
  t.equal(reports(), 1, 'before a replica can have become a primary');
  source.emit('+node');
  clock.advance(900);
  t.equal(reports(), 1);
  clock.advance(100);
  t.equal(reports(), 2, 'and not more than once a second');
  clock.advance(60_000);
  t.equal(reports(), 2);
  source.emit('-node');
  stop();
  source.emit('-node');
  clock.advance(60_000);
  t.equal(reports(), 2);
  t.equal(clock.pending, 0, 'no timer is left');
});

t.test('reports a slot with another primary, also one that a redirection has named', async (t) => {
  const { clock, source, reports } = setUp();
  const refresh = () => {
    source.emit('refresh');
    clock.advance(60_000);
    return reports();
  };
  t.equal(refresh(), 0, 'the first look');
  t.equal(refresh(), 0, 'the same');
  source.slots[2] = ['b', 'b3'];
  t.equal(refresh(), 0, 'another replica');
  (source.slots[2] as string[])[0] = 'b2';
  t.equal(refresh(), 1, 'another primary');
  source.slots[1] = ['a'];
  t.equal(refresh(), 2, 'the first primary of a slot');
  t.equal(refresh(), 2);
});

t.test('the connection of a cluster tells its listeners, until it is closed', async (t) => {
  const clock = manualClock();
  const ignored = { inc() {}, set() {} };
  const metrics = { redisUp: ignored, redisFailures: ignored } as unknown as Metrics;
  const client = new Cluster([{ host: '127.0.0.1', port: 1 }], { lazyConnect: true });
  const connection = createRedisConnection(client as unknown as Redis, {
    clock,
    metrics,
    health: createHealth({ metrics, log: { warn() {}, info() {} } as never }),
    reads: { read: () => Promise.reject(new Error('not used')), connect() {}, close() {} },
    isCluster: true,
  });
  const told: string[] = [];
  connection.onNodesChanged(() => told.push('first'));
  connection.onNodesChanged(() => told.push('second'));
  client.emit('-node');
  clock.advance(1_000);
  t.same(told, ['first', 'second']);
  client.emit('+node');
  connection.close();
  t.equal(clock.pending, 0, 'no timer is left');
});
