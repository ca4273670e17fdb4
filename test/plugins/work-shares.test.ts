import { assert, double, integer, property } from 'fast-check';
import t from 'tap';
import { createWorkShares } from '../../plugins/load/work-shares.ts';
import { manualClock } from '../manual-clock.ts';

t.test('the owner that causes most of the load is refused, and others are not', async (t) => {
  const { clock } = start();
  const shares = createWorkShares(clock.now);
  t.ok(shares.isHeavy('a'), 'without any work, everybody is refused');
  shares.add('noisy', 5_000);
  clock.advance(100);
  t.ok(shares.isHeavy('noisy'), 'alone, an owner causes all of the load');
  shares.add('quiet', 300);
  clock.advance(100);
  t.ok(shares.isHeavy('noisy'));
  t.notOk(shares.isHeavy('quiet'));
  t.notOk(shares.isHeavy('new'), 'an owner that has not asked yet');
  shares.add('quiet', 6_000);
  clock.advance(100);
  t.ok(shares.isHeavy('quiet'), 'the larger one of two has to go, too');
});

t.test('an owner is admitted if it is enough to refuse larger ones', async (t) => {
  const { clock } = start();
  const shares = createWorkShares(clock.now);
  for (const [owner, ms] of [
    ['third', 600],
    ['first', 1_000],
    ['second', 900],
  ] as const)
    shares.add(owner, ms);
  clock.advance(100);
  t.same(
    ['first', 'second', 'third'].filter((owner) => shares.isHeavy(owner)),
    ['first', 'second'],
  );
});

t.test('owners of equal work are refused alike, however many there are, and new ones as well', async (t) => {
  assert(
    property(integer({ min: 1, max: 300 }), double({ min: 0, max: 13, noNaN: true }), (owners, ms) => {
      const { clock } = start();
      const shares = createWorkShares(clock.now);
      for (let i = 0; i < owners; i++) shares.add(`owner ${i}`, ms);
      clock.advance(100);
      return shares.isHeavy('owner 0') && shares.isHeavy(`owner ${owners - 1}`) && shares.isHeavy('new');
    }),
  );
  t.pass('a crowd of small owners is not admitted without end');
});

t.test('work is forgotten, and the number of owners is bounded', async (t) => {
  const { clock } = start();
  const shares = createWorkShares(clock.now);
  shares.add('once', 4_000);
  shares.add('other', 400);
  clock.advance(100);
  t.notOk(shares.isHeavy('other'));
  clock.advance(5_000);
  shares.add('other', 2_800);
  clock.advance(100);
  t.ok(shares.isHeavy('other'), 'after five seconds, work counts half');
  clock.advance(200_000);
  shares.add('other', 200);
  shares.add('third', 1_000);
  clock.advance(100);
  t.notOk(shares.isHeavy('once'), 'and then nothing');
  for (let i = 0; i < 10_001; i++) shares.add(`owner ${i}`, 1);
  for (let i = 0; i < 100; i++) shares.add(`late ${i}`, 1_000);
  clock.advance(100);
  t.ok(shares.isHeavy('late 0'), 'owners beyond the bound count as one');
  t.notOk(shares.isHeavy('third'));
  clock.advance(3_600_000);
  shares.add('large', 4_000);
  shares.add('small', 400);
  clock.advance(100);
  t.ok(shares.isHeavy('large'), 'forgotten owners leave their place to new ones');
  t.notOk(shares.isHeavy('small'));
});

function start() {
  return { clock: manualClock() };
}
