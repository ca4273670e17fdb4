import t from 'tap';
import { createSharedCosts } from '../../plugins/limits/shared-cost.ts';
import { RedisUnavailable } from '../../plugins/redis/connection.ts';
import type { Cluster } from '../../plugins/redis/index.ts';
import { manualClock } from '../manual-clock.ts';

/** Tests the order of commands and replies, with a Redis that the test plays. */

/** One command on its way. */
interface Command {
  readonly id: string;
  readonly cost: number;
  readonly hasEnded: boolean;
  readonly isChecked: boolean;
  reply(isCharged?: boolean): Promise<void>;
  fail(error?: Error): Promise<void>;
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
const USE = { key: 'day:o', ends: Number.MAX_SAFE_INTEGER };

function playedRedis() {
  const commands: Command[] = [];
  const deleted: string[] = [];
  const listeners: Record<'onAvailable' | 'onRenewed' | 'onMissing', () => void> = {
    onAvailable() {},
    onRenewed() {},
    onMissing() {},
  };
  let isConnected = true;
  const clock = manualClock();
  const redis = {
    hdel: async (_: string, ...ids: string[]) => deleted.push(...ids),
    evalsha: (_sha: string, _count: number, _key: string, ...args: (string | number)[]) =>
      new Promise((resolve, reject) => {
        const [id, cost, amount, hasEnded] = args;
        commands.push({
          id: String(id),
          cost: Number(cost),
          hasEnded: hasEnded === 1,
          isChecked: Number(amount) >= 0,
          reply: (isCharged = true) => {
            const sums = hasEnded === 1 ? [Number(cost), 0] : [0, Number(cost)];
            resolve([isCharged ? 1 : 0, ...sums, 'since']);
            return turn();
          },
          fail: (error = new RedisUnavailable()) => {
            reject(error);
            return turn();
          },
        });
      }),
  };
  const on = (name: keyof typeof listeners) => (listener: () => void) => {
    listeners[name] = listener;
  };
  const connection = {
    get isAvailable() {
      return isConnected;
    },
    run: (call: (client: unknown) => Promise<unknown>) =>
      isConnected ? call(redis) : Promise.reject(new RedisUnavailable()),
    onAvailable: on('onAvailable'),
  };
  const lease = { onRenewed: on('onRenewed'), onMissing: on('onMissing') };
  const cluster = { connection, lease, key: (...names: string[]) => names.join(':'), replica: 'r' };
  const costs = createSharedCosts(cluster as unknown as Cluster, { clock, expectedReplicas: 1, onDegraded() {} });
  const fire = (name: keyof typeof listeners) => {
    listeners[name]();
    return turn();
  };
  const take = () => commands.splice(0);
  const connect = (value: boolean) => {
    isConnected = value;
  };
  /** Lets seconds pass, with some renewals of the lease in each: other replicas can ask for one at any time. */
  const pass = async (seconds: number) => {
    for (let i = 0; i < 5 * seconds; i++) {
      clock.advance(200);
      await fire('onRenewed');
    }
  };
  return { costs, take, deleted, fire, pass, connect };
}

type Played = ReturnType<typeof playedRedis>;

/** Charges 100 of 1,000. */
async function charge({ costs, take }: Played, play: (command: Command) => unknown) {
  const charged = costs.charge(USE, 1_000, 100);
  const [command] = take();
  if (command) await play(command);
  return charged;
}

t.test('the mark of an end is deleted when its stream has ended in Redis long ago', async (t) => {
  const played = playedRedis();
  const open = await charge(played, (command) => command.reply());
  open?.settle(70);
  const [end] = played.take();
  t.match(end, { id: 'r:1', cost: 70, hasEnded: true, isChecked: false });
  await end?.reply();
  await played.pass(9);
  t.same(played.deleted, [], 'another replica may take the stream over');
  await played.pass(1);
  t.same(played.deleted, ['r:1']);
  await played.fire('onAvailable');
  await played.fire('onMissing');
  await played.pass(20);
  t.same(played.deleted, ['r:1'], 'once');
  t.notOk(
    played.take().some(({ id }) => id === 'r:1'),
    'nothing is sent again',
  );
});

t.test('the mark stays if an earlier command may arrive after it', async (t) => {
  const played = playedRedis();
  const open = await charge(played, (command) => command.fail());
  open?.settle(70);
  await played.take()[0]?.reply();
  await played.pass(20);
  t.same(played.deleted, []);
});

t.test('a charge without a reply that this replica refuses is taken back', async (t) => {
  const played = playedRedis();
  const first = await charge(played, (command) => command.reply());
  first?.settle(1_000);
  await played.take()[0]?.fail();
  const refused = played.costs.charge(USE, 1_000, 100);
  await turn();
  const [repeated, command] = played.take();
  t.match(
    [repeated, command],
    [
      { id: 'r:1', cost: 1_000 },
      { id: 'r:2', isChecked: true },
    ],
    'what is unsent comes first',
  );
  await repeated?.fail();
  await command?.fail();
  t.equal(await refused, undefined);
  await played.fire('onRenewed');
  t.match(played.take(), [
    { id: 'r:1', cost: 1_000, hasEnded: true },
    { id: 'r:2', cost: 0, hasEnded: true },
  ]);
});

t.test('a charge that never left needs not be taken back', async (t) => {
  const played = playedRedis();
  const first = await charge(played, (command) => command.reply());
  played.connect(false);
  first?.settle(1_000);
  t.equal(await charge(played, () => {}), undefined);
  played.connect(true);
  await played.fire('onRenewed');
  t.match(
    played.take().map(({ id }) => id),
    ['r:1'],
  );
});

for (const name of ['onAvailable', 'onMissing'] as const) {
  t.test(`running generations are sent again after ${name}`, async (t) => {
    const played = playedRedis();
    const open = await charge(played, (command) => command.reply());
    await played.fire('onRenewed');
    t.same(played.take(), [], 'not without a reason');
    await played.fire(name);
    await played.fire('onRenewed');
    t.match(played.take()[0], { id: 'r:1', cost: 100, hasEnded: false, isChecked: false });
    open?.settle(5);
    t.match(played.take()[0], { cost: 5, hasEnded: true });
  });
}

t.test('an earlier command that fails after the end was confirmed sends nothing again', async (t) => {
  const played = playedRedis();
  const open = await charge(played, (command) => command.reply());
  await played.fire('onAvailable');
  await played.fire('onRenewed');
  const [again] = played.take();
  open?.settle(70);
  await played.take()[0]?.reply();
  await again?.fail(new Error('OOM'));
  await played.fire('onRenewed');
  t.same(played.take(), [], 'after its mark is deleted, the end would be charged twice');
});

t.test('a generation that was handed over is not sent any more', async (t) => {
  const played = playedRedis();
  const open = await charge(played, (command) => command.reply());
  await played.fire('onAvailable');
  await played.fire('onRenewed');
  const [again] = played.take();
  open?.handOver();
  await again?.fail();
  await played.fire('onRenewed');
  t.same(played.take(), []);
});
