import { EventEmitter } from 'node:events';
import type { Redis } from 'ioredis';
import { ReplyError } from 'ioredis';
import t from 'tap';
import type { RedisNode } from '../../plugins/config/redis-url.ts';
import { ShardSubscriber } from '../../plugins/redis/shard-subscriber.ts';
import { manualClock } from '../manual-clock.ts';
import { settle } from './fake-redis.ts';

/** The subscriber of a cluster, with nodes whose replies the test decides, on a clock turned by hand. */

class FakeNode extends EventEmitter {
  status = 'connecting';
  /** Reply to SSUBSCRIBE. */
  refusal: string | undefined;
  readonly node: RedisNode;
  constructor(node: RedisNode) {
    super();
    this.node = node;
  }
  async connect() {}
  open() {
    this.status = 'ready';
    this.emit('ready');
  }
  disconnect() {
    if (this.status === 'end') return;
    this.status = 'end';
    this.emit('end');
  }
  async ssubscribe() {
    if (this.refusal === undefined) return 1;
    if (this.refusal.startsWith('MOVED')) this.emit('moved');
    throw new ReplyError(this.refusal);
  }
}

function setUp(nodes: RedisNode[] = [A, B]) {
  const clock = manualClock();
  const opened: FakeNode[] = [];
  const subscriber = new ShardSubscriber({
    clock,
    nodes: () => nodes,
    connect: (node) => {
      const fake = new FakeNode(node);
      opened.push(fake);
      return fake as unknown as Redis;
    },
  });
  const events: string[] = [];
  for (const name of ['ready', 'close']) subscriber.on(name, () => events.push(name));
  subscriber.on('message', (channel, text) => events.push(`${channel} ${text}`));
  subscriber.on('error', (error: Error) => events.push(error.message));
  return { clock, subscriber, opened, events, last: () => opened.at(-1) as FakeNode };
}

const A = { host: 'a', port: 1 };
const B = { host: 'b', port: 2 };
const C = { host: '::1', port: 6_379 };

t.test('follows a redirection to the node that has the channel, at once', async (t) => {
  const { clock, subscriber, opened, events, last } = setUp();
  await t.rejects(subscriber.subscribe('x'), /not connected/);
  t.equal(subscriber.status, 'wait');
  await subscriber.connect();
  t.same(last().node, A);
  last().open();
  last().refusal = 'MOVED 15495 ::1:6379';
  await t.rejects(subscriber.subscribe('x'), { message: 'another node has the channel' });
  t.same(events, ['ready', 'close']);
  clock.advance(0);
  t.same(last().node, C);
  last().open();
  await subscriber.subscribe('x');
  t.equal(subscriber.status, 'ready');
  last().emit('smessage', 'x', 'text');
  t.same(events, ['ready', 'close', 'ready', 'x text']);
  t.equal(opened.length, 2);
});

t.test('opens another connection when the slot leaves the node', async (t) => {
  const { clock, subscriber, events, last, opened } = setUp();
  await subscriber.connect();
  last().open();
  await subscriber.subscribe('x');
  last().emit('moved');
  t.same(events, ['ready', 'close']);
  clock.advance(1_000);
  t.equal(opened.length, 2);
});

t.test('asks the nodes in turn, with growing pauses, and not at all once it is closed', async (t) => {
  const { clock, subscriber, opened, last, events } = setUp();
  await subscriber.connect();
  const pauses: number[] = [];
  for (let i = 0; i < 7; i++) {
    const count = opened.length;
    last().emit('error', new Error('refused'));
    last().disconnect();
    let ms = 0;
    for (; opened.length === count; ms += 10) clock.advance(10);
    pauses.push(ms);
  }
  t.same(opened.map(({ node }) => node.host).join(''), 'abababab');
  t.same(pauses, [100, 200, 400, 800, 1_000, 1_000, 1_000]);
  t.ok(events.includes('refused'), 'errors are passed on');
  subscriber.disconnect(true);
  clock.advance(1_000);
  t.equal(opened.length, 9, 'a connection that is closed to be opened again');
  subscriber.disconnect();
  await settle();
  clock.advance(10_000);
  t.equal(opened.length, 9);
  t.equal(clock.pending, 0, 'no timer is left');
});

t.test('without a known node it asks again later; a refusal is passed on', async (t) => {
  const nodes: RedisNode[] = [];
  const { clock, subscriber, opened, last } = setUp(nodes);
  await subscriber.connect();
  t.equal(opened.length, 0);
  nodes.push(B);
  clock.advance(1_000);
  t.same(last().node, B);
  last().open();
  last().refusal = 'NOPERM no channel';
  await t.rejects(subscriber.subscribe('x'), ReplyError);
  t.equal(subscriber.status, 'ready', 'the connection stays');
});

t.test('a node that knows of no cluster is left, and the next one asked', async (t) => {
  const { clock, subscriber, opened, last, events } = setUp();
  await subscriber.connect();
  last().open();
  last().refusal = 'CLUSTERDOWN The cluster is down';
  const error = await subscriber.subscribe('x').catch((error: unknown) => error);
  t.notOk(error instanceof ReplyError, 'no refusal yet: it connects again');
  t.same(events, ['ready', 'CLUSTERDOWN The cluster is down', 'close']);
  clock.advance(0);
  t.equal(opened.length, 1, 'not at once');
  clock.advance(1_000);
  t.same(last().node, B);
  last().open();
  await subscriber.subscribe('x');
  last().refusal = 'CLUSTERDOWN The cluster is down';
  await t.rejects(subscriber.subscribe('x'));
  clock.advance(0);
  t.same(last().node, A, 'after a subscription too');
  last().open();
  await subscriber.subscribe('x');
  subscriber.disconnect(true);
  clock.advance(0);
  t.same(last().node, B, 'and after a subscription that was given up');
});

t.test('nodes that name one another are asked with growing pauses', async (t) => {
  const { clock, subscriber, opened, last } = setUp();
  await subscriber.connect();
  const pauses: number[] = [];
  const redirect = async () => {
    const count = opened.length;
    last().open();
    last().refusal = 'MOVED 5 c:3';
    await t.rejects(subscriber.subscribe('x'));
    let ms = 0;
    clock.advance(0);
    for (; opened.length === count; ms += 10) clock.advance(10);
    pauses.push(ms);
  };
  for (let i = 0; i < 5; i++) await redirect();
  t.same(pauses, [0, 0, 400, 800, 1_000]);
  last().open();
  await subscriber.subscribe('x');
  pauses.length = 0;
  for (let i = 0; i < 3; i++) await redirect();
  t.same(pauses, [0, 0, 200], 'a subscription ends the series');
});
