import fc from 'fast-check';
import t from 'tap';
import { clientAddress } from '../../plugins/client-address.ts';
import { RecentMap } from '../../plugins/recent-map.ts';
import { WindowCounter } from '../../plugins/window-counter.ts';
import { manualDate } from '../manual-date.ts';

/** Counters of one process, and the names of addresses by which they count. */

const WINDOW_MS = 60_000;
const SEED = process.env.SEED === undefined ? Date.now() % 2 ** 31 : Number(process.env.SEED);

t.test('a window begins with the first event of its key and counts every event until it ends', (t) => {
  const date = manualDate(t);
  const counter = new WindowCounter(WINDOW_MS, 10);
  t.same(counter.add('a'), { count: 1, msBeforeNext: WINDOW_MS });
  date.advance(WINDOW_MS - 1);
  t.same(counter.add('b'), { count: 1, msBeforeNext: WINDOW_MS }, 'another key');
  t.same(counter.add('a'), { count: 2, msBeforeNext: 1 }, 'a millisecond before the end');
  date.advance(1);
  t.same(counter.add('a'), { count: 1, msBeforeNext: WINDOW_MS }, 'a new window');
  t.same(counter.add('b'), { count: 2, msBeforeNext: WINDOW_MS - 1 }, 'the window of the other key');
  counter.takeBack('b');
  t.equal(counter.add('b').count, 2, 'an event that was taken back does not count');
  counter.takeBack('unknown');
  t.equal(counter.add('unknown').count, 1, 'nothing to take back');
  for (let i = 0; i < 3; i++) counter.takeBack('unknown');
  t.equal(counter.add('unknown').count, 1, 'no more than was counted is taken back');
  t.end();
});

t.test('a clock that is set back prolongs no window', (t) => {
  const date = manualDate(t);
  const counter = new WindowCounter(WINDOW_MS, 10);
  counter.add('a');
  date.advance(-3_600_000);
  t.same(counter.add('a'), { count: 2, msBeforeNext: WINDOW_MS });
  date.advance(WINDOW_MS);
  t.equal(counter.add('a').count, 1);
  for (let i = 0; i < 8; i++) counter.add(`other ${i}`);
  date.advance(2 * WINDOW_MS);
  counter.add('a');
  date.advance(2 * WINDOW_MS);
  counter.add('a');
  t.ok(counter.size <= 2, 'expired windows are still forgotten');
  t.end();
});

t.test('a window is not forgotten because others were a moment before', (t) => {
  const date = manualDate(t);
  const counter = new WindowCounter(WINDOW_MS, 3);
  counter.add('a');
  date.advance(WINDOW_MS - 2);
  for (const key of ['b', 'c']) counter.add(key);
  date.advance(1);
  // The fourth key begins a new generation, and the time of the first one is over a millisecond later.
  counter.add('d');
  date.advance(1);
  counter.add('d');
  t.same([counter.add('b').count, counter.add('c').count, counter.add('d').count], [2, 2, 3]);
  t.end();
});

t.test('a million keys use the memory of the bound, and leave none of it for long', (t) => {
  // `manualDate` keeps a record of every call.
  const { now } = Date;
  let time = now();
  Date.now = () => time;
  t.teardown(() => {
    Date.now = now;
  });
  const bound = 50_000;
  const counter = new WindowCounter(WINDOW_MS, bound);
  counter.add('busy');
  let largest = 0;
  for (let i = 0; i < 1_000_000; i++) {
    counter.add(`key ${i}`);
    if (i % 10_000 !== 0) continue;
    counter.add('busy');
    largest = Math.max(largest, counter.size);
  }
  t.ok(largest <= 2 * bound && largest > bound, `${largest} keys are kept`);
  t.equal(counter.add('busy').count, 102, 'a key in use is not forgotten');
  t.ok(counter.add('key 999999').count === 2, 'nor a recent one');
  for (let i = 0; i < 2; i++) {
    time += WINDOW_MS;
    counter.add('busy');
  }
  t.ok(counter.size <= 2, `${counter.size} keys are kept two windows later`);
  t.end();
});

t.test('a map of recent entries keeps the last used ones', (t) => {
  const key = fc.integer({ min: 0, max: 12 }).map((n) => `k${n}`);
  const step = fc.oneof(
    fc.record({ do: fc.constant('set' as const), key, value: fc.integer({ min: 1 }) }),
    fc.record({ do: fc.constant('get' as const), key }),
    fc.record({ do: fc.constant('delete' as const), key }),
  );
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5 }), fc.array(step, { maxLength: 60 }), (size, steps) => {
        const map = new RecentMap<number>(size);
        /** All entries, in the order of their last use. */
        const model = new Map<string, number>();
        for (const one of steps) {
          if (one.do === 'delete') {
            map.delete(one.key);
            model.delete(one.key);
          } else if (one.do === 'set') {
            map.set(one.key, one.value);
            model.delete(one.key);
            model.set(one.key, one.value);
          } else {
            const found = map.get(one.key);
            const expected = model.get(one.key);
            const isRecent = [...model.keys()].slice(-size).includes(one.key);
            if (found !== expected && (found !== undefined || isRecent)) throw new Error(`${one.key} is ${found}`);
            model.delete(one.key);
            if (found !== undefined) model.set(one.key, found);
          }
          if (map.size > 2 * size) throw new Error(`${map.size} entries of ${size}`);
        }
      }),
      { seed: SEED, endOnFailure: true },
    ),
  );
  t.end();
});

const ADDRESSES: [name: string, ip: string | undefined, expected: string][] = [
  ['an IPv4 address', '203.0.113.7', '203.0.113.7'],
  ['an IPv4 address in IPv6', '::ffff:203.0.113.7', '203.0.113.7'],
  ['the same in hexadecimal', '::ffff:cb00:7107', '203.0.113.7'],
  ['the same in full', '0:0:0:0:0:FFFF:cb00:7107', '203.0.113.7'],
  ['an IPv4 address with a port', '203.0.113.7:50000', '203.0.113.7'],
  ['the largest IPv4 address in IPv6', '::ffff:ffff:ffff', '255.255.255.255'],
  ['an IPv6 address', '2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['another one of its network', '2001:db8:1:2:ffff::', '2001:db8:1:2::/64'],
  ['the next network', '2001:db8:1:3::1', '2001:db8:1:3::/64'],
  ['upper case and leading zeros', '2001:0DB8:0001:0002::9', '2001:db8:1:2::/64'],
  ['an IPv6 address with a port', '[2001:db8:1:2::1]:50000', '2001:db8:1:2::/64'],
  ['a zone', 'fe80::1%eth0', 'fe80:0:0:0::/64'],
  ['a zone with colons', 'fe80::1%a:b:c:d:e:f:a', 'fe80:0:0:0::/64'],
  ['a short address', '2001:db8::1', '2001:db8:0:0::/64'],
  ['zeros in the middle', '1:2::3:4:5:6', '1:2:0:0::/64'],
  ['zeros at the end', '1:2:3::', '1:2:3:0::/64'],
  ['loopback', '::1', '0:0:0:0::/64'],
  ['an IPv4 address behind another prefix', '64:ff9b:1:2::203.0.113.7', '64:ff9b:1:2::/64'],
  ['text instead of an address', 'CANARY', '192.0.2.1'],
  ['text with a port', 'CANARY:80', '192.0.2.1'],
  ['nothing', '', '192.0.2.1'],
  ['no address', undefined, '192.0.2.1'],
];
t.test('an address counts as one client, an IPv6 network of 64 bits too', (t) => {
  for (const [name, ip, expected] of ADDRESSES) {
    t.equal(clientAddress({ ip, socket: { remoteAddress: '192.0.2.1' } }), expected, name);
  }
  t.equal(clientAddress({ ip: undefined, socket: {} }), 'unknown', 'a socket without an address');
  t.end();
});

t.test('addresses of one network have one name, and those of two networks have two', (t) => {
  const group = fc.integer({ min: 0, max: 0xffff });
  const network = fc.array(fc.oneof(fc.constant(0), group), { minLength: 4, maxLength: 4 });
  const nameOf = (groups: number[]) =>
    clientAddress({ ip: groups.map((one) => one.toString(16)).join(':'), socket: {} });
  // The name of a URL is the canonical short form.
  const shortNameOf = (groups: number[]) => {
    const host = new URL(`http://[${groups.map((one) => one.toString(16)).join(':')}]`).hostname;
    return clientAddress({ ip: host.slice(1, -1), socket: {} });
  };
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(network, network, network, network, (first, a, b, second) => {
        // IPv4 addresses in IPv6 are told apart by their last bits.
        fc.pre(first.some((one) => one !== 0) && second.some((one) => one !== 0));
        if (nameOf([...first, ...a]) !== nameOf([...first, ...b])) return false;
        if (shortNameOf([...first, ...a]) !== nameOf([...first, ...a])) return false;
        const isSame = first.join() === second.join();
        return (nameOf([...first, ...a]) === nameOf([...second, ...a])) === isSame;
      }),
      { seed: SEED, endOnFailure: true },
    ),
  );
  t.end();
});
