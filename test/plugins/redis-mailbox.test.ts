import type { Redis } from 'ioredis';
import t from 'tap';
import { createMailbox } from '../../plugins/redis/mailbox.ts';
import { manualClock } from '../manual-clock.ts';
import { FakeRedis, settle } from './fake-redis.ts';

/** Messages between replicas, and the checks of the subscription, on a clock turned by hand. */

const CHECK_MS = 2_000;

const setUpMailbox = ({ isSharded = false } = {}) => {
  const clock = manualClock();
  const subscriber = new FakeRedis();
  const published: unknown[][] = [];
  const reports: string[] = [];
  let onSpublish: (channel: string, text: string) => unknown = () => 1;
  const connection = {
    isConnected: true,
    query: async (call: (redis: unknown) => Promise<unknown>) =>
      call({
        async publish(...args: unknown[]) {
          published.push(args);
          if (args[0] === 'to:broken') throw new Error('no reply');
        },
        async spublish(channel: string, text: string) {
          published.push([channel, text]);
          return onSpublish(channel, text);
        },
      }),
  };
  const mailbox = createMailbox({
    subscriber: subscriber as unknown as Redis,
    connection: connection as never,
    isSharded,
    clock,
    replica: 'me',
    channelOf: (id) => `to:${id}`,
    prefix: 'p',
    report: (problem) => reports.push(problem?.reason ?? 'none'),
  });
  let deaf = 0;
  mailbox.onDeaf(() => {
    deaf += 1;
  });
  let subscribed = 0;
  mailbox.onSubscribed(() => {
    subscribed += 1;
  });
  const open = async () => {
    subscriber.open();
    await settle();
  };
  return {
    clock,
    subscriber,
    published,
    connection,
    mailbox,
    open,
    subscribed: () => subscribed,
    reports,
    deaf: () => deaf,
    /** Decides what becomes of a message in a cluster. */
    onSpublish(handler: typeof onSpublish) {
      onSpublish = handler;
    },
  };
};

t.test('delivers messages to the handler of their kind', async (t) => {
  const { subscriber, mailbox } = setUpMailbox();
  const received: unknown[] = [];
  mailbox.on('a', (from, body) => received.push(['a', from, body]));
  mailbox.on('b', (from, body) => received.push(['b', from, body]));
  for (const message of [
    '["a","r1",[1]]',
    'not JSON',
    '["b","r2","x"]',
    '["unknown","r2",1]',
    '{}',
    '0',
    'null',
    '[]',
  ]) {
    subscriber.emit('message', 'to:me', message);
  }
  t.same(received, [
    ['a', 'r1', [1]],
    ['b', 'r2', 'x'],
  ]);
});

t.test('sends while Redis is available, and drops messages without an error otherwise', async (t) => {
  const { mailbox, published, connection } = setUpMailbox();
  mailbox.send('you', 'a', [1]);
  t.same(published, [['to:you', '["a","me",[1]]']]);
  mailbox.send('broken', 'a', 1);
  await settle();
  connection.isConnected = false;
  mailbox.send('you', 'a', 2);
  t.equal(published.length, 2);
});

t.test('subscribes at each new connection, and then calls its listeners', async (t) => {
  const { subscriber, open, subscribed } = setUpMailbox();
  t.equal(subscriber.connects, 1);
  await open();
  t.equal(subscribed(), 1);
  subscriber.emit('error', new Error('ECONNRESET'));
  await open();
  t.equal(subscribed(), 2);
  subscriber.answers = false;
  await open();
  t.equal(subscribed(), 2, 'not before the subscription is confirmed');
  subscriber.subscribe = () => Promise.reject(new Error('closed'));
  await open();
  t.equal(subscribed(), 2, 'not if it fails');
});

t.test('checks the subscription every two seconds, and reconnects when a check has had no answer', async (t) => {
  const { clock, subscriber, open, subscribed } = setUpMailbox();
  await open();
  for (let i = 2; i < 5; i++) {
    clock.advance(CHECK_MS);
    await settle();
    t.equal(subscriber.subscribes, i, 'one check');
  }
  t.equal(subscribed(), 1, 'a check is not a new subscription');
  t.same(subscriber.disconnects, []);
  subscriber.answers = false;
  clock.advance(CHECK_MS);
  await settle();
  t.same(subscriber.disconnects, [], 'it waits for the answer');
  clock.advance(CHECK_MS - 1);
  await settle();
  t.same(subscriber.disconnects, []);
  clock.advance(1);
  await settle();
  t.same(subscriber.disconnects, [true], 'it reconnects');
  subscriber.answers = true;
  await open();
  t.equal(subscribed(), 2);
  for (let i = 0; i < 5; i++) {
    clock.advance(CHECK_MS);
    await settle();
  }
  t.same(subscriber.disconnects, [true], 'the new connection works');
});

t.test('subscribedForMs: 0 unless messages arrive, as far as is known', async (t) => {
  const { clock, subscriber, mailbox, open } = setUpMailbox();
  t.equal(mailbox.subscribedForMs, 0, 'before the first subscription');
  clock.advance(500);
  await open();
  t.equal(mailbox.subscribedForMs, 0);
  for (let i = 0; i < 3; i++) {
    clock.advance(CHECK_MS);
    await settle();
  }
  t.equal(mailbox.subscribedForMs, 3 * CHECK_MS);
  subscriber.answers = false;
  clock.advance(CHECK_MS);
  await settle();
  t.equal(mailbox.subscribedForMs, 0, 'while a check has no answer');
  clock.advance(CHECK_MS);
  await settle();
  t.equal(mailbox.subscribedForMs, 0, 'without a connection');
  subscriber.answers = true;
  await open();
  clock.advance(100);
  t.equal(mailbox.subscribedForMs, 100, 'since the new subscription');
});

t.test('a connection that is not open is not checked', async (t) => {
  const { clock, subscriber } = setUpMailbox();
  clock.advance(5 * CHECK_MS);
  await settle();
  t.same([subscriber.subscribes, subscriber.disconnects], [0, []]);
});

t.test('a new connection whose subscription is never confirmed is given up too', async (t) => {
  const { clock, subscriber, open } = setUpMailbox();
  subscriber.answers = false;
  await open();
  clock.advance(2 * CHECK_MS);
  await settle();
  t.same(subscriber.disconnects, [true]);
});

t.test('a new connection gets its full time, whatever the old one has left unanswered', async (t) => {
  const { clock, subscriber, open } = setUpMailbox();
  await open();
  subscriber.answers = false;
  clock.advance(CHECK_MS);
  await settle();
  subscriber.emit('close');
  await open();
  clock.advance(CHECK_MS);
  await settle();
  t.same(subscriber.disconnects, []);
  clock.advance(CHECK_MS);
  await settle();
  t.same(subscriber.disconnects, [true]);
});

t.test('a refused subscription is reported at once, and tried again with growing pauses', async (t) => {
  const { clock, subscriber, mailbox, open, subscribed, reports, deaf } = setUpMailbox();
  subscriber.refusal = 'NOPERM No permissions to access a channel';
  await open();
  t.same(reports, ['NOPERM']);
  t.equal(deaf(), 1);
  t.equal(mailbox.subscribedForMs, 0);
  for (let i = 0; i < 60; i++) {
    clock.advance(1_000);
    await settle();
  }
  t.ok(subscriber.subscribes <= 9, `${subscriber.subscribes} attempts in a minute`);
  t.same(subscriber.disconnects, [], 'the connection works');
  t.equal(subscribed(), 0);
  subscriber.refusal = undefined;
  clock.advance(5 * CHECK_MS);
  await settle();
  t.equal(subscribed(), 1);
  t.equal(reports.at(-1), 'none');
});

t.test('a right that is taken away later is reported', async (t) => {
  const { clock, subscriber, mailbox, open, reports } = setUpMailbox();
  await open();
  t.same(reports, ['none']);
  subscriber.refusal = 'NOPERM x';
  clock.advance(CHECK_MS);
  await settle();
  t.same(reports, ['none', 'NOPERM']);
  clock.advance(CHECK_MS);
  t.equal(mailbox.subscribedForMs, 0);
});

t.test('a lost connection is reported after a second without a new subscription', async (t) => {
  const { clock, subscriber, open, reports, deaf } = setUpMailbox();
  await open();
  subscriber.emit('close');
  clock.advance(999);
  await open();
  clock.advance(1_500);
  await settle();
  t.same(reports, ['none', 'none'], 'not if it is subscribed again in time');
  subscriber.emit('error', Object.assign(new Error('x'), { code: 'ECONNREFUSED' }));
  subscriber.emit('close');
  subscriber.emit('close');
  clock.advance(999);
  t.equal(deaf(), 0);
  clock.advance(1);
  t.same(reports.slice(2), ['ECONNREFUSED']);
  t.equal(deaf(), 1);
  await open();
  t.equal(reports.at(-1), 'none');
});

t.test('in a cluster: reconnects if its own messages do not arrive, although subscribing works', async (t) => {
  const { clock, subscriber, mailbox, published, open, onSpublish } = setUpMailbox({ isSharded: true });
  const check = async (times = 1) => {
    for (let i = 0; i < times; i++) {
      clock.advance(CHECK_MS);
      await settle();
    }
  };
  const deliver = (channel: string, text: string) => void subscriber.emit('message', channel, text);
  await open();
  onSpublish(deliver);
  await check(5);
  t.equal(published.length, 5, 'one message for each check');
  onSpublish((channel, text) => void setImmediate(deliver, channel, text));
  await check(5);
  t.equal(mailbox.subscribedForMs, 10 * CHECK_MS, 'also if they arrive behind the reply');
  onSpublish(() => Promise.reject(new Error('the slot is down')));
  await check(5);
  t.same(subscriber.disconnects, [], 'a message that was not published says nothing');
  onSpublish(() => 0);
  await check();
  t.equal(mailbox.subscribedForMs, 0, 'messages do not arrive');
  t.same(subscriber.disconnects, [], 'it waits for the message');
  await check();
  t.same(subscriber.disconnects, [true]);
  let reply = () => {};
  onSpublish(() => new Promise<void>((resolve) => (reply = resolve)));
  await open();
  await check();
  subscriber.emit('close');
  await open();
  reply();
  await settle();
  onSpublish(deliver);
  await check(5);
  t.same(subscriber.disconnects, [true], 'a message of an earlier connection does not count');
});

t.test('close', async (t) => {
  const { clock, subscriber, mailbox, open } = setUpMailbox();
  await open();
  mailbox.close();
  t.same(subscriber.disconnects, [undefined], 'it does not reconnect');
  t.equal(clock.pending, 0, 'no timer is pending');
});
