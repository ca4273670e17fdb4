import fc from 'fast-check';
import t from 'tap';
import { isStaleProducerError, StreamCommands } from '../../plugins/streams/redis/commands.ts';
import { END_POSITION } from '../../plugins/streams/redis/entries.ts';
import { noRedis, startRedis } from '../redis.ts';
import { newId } from './conformance.ts';
import { redisStore } from './redis-replica.ts';

/**
 * Two replicas, each of which may think that a log is its own, in any order of appending, reading,
 * ending, dying, taking over and forgetting: at most one of them writes, and what stands in Redis is
 * what that one has written.
 */

interface Model {
  /** What Redis must hold; undefined while it holds nothing. */
  log: { producer: number; epoch: number; text: string; ended: boolean } | undefined;
  /** What each replica believes. */
  readonly replicas: { epoch: number | undefined; text: string; alive: boolean }[];
}

interface Real {
  readonly id: string;
  readonly records: StreamCommands[];
  setLease(replica: number, alive: boolean): Promise<void>;
  forget(): Promise<void>;
  readonly names: string[];
}

type Command = fc.AsyncCommand<Model, Real>;

const replica = fc.nat({ max: 1 });
const words = fc.string({ minLength: 1, maxLength: 5, unit: 'grapheme' });

/** Whether a replica that believes this may write. */
const owns = ({ log }: Model, who: number, epoch: number | undefined) =>
  log !== undefined && log.producer === who && log.epoch === epoch;

/** What writing comes to: true, false where the log is gone, or refused. */
const outcome = (write: Promise<boolean>) =>
  write.catch((error: unknown) => {
    if (isStaleProducerError(error)) return 'refused';
    throw error;
  });

function expectedOf(model: Model, who: number, epoch: number | undefined): boolean | 'refused' {
  if (model.log === undefined) return false;
  return owns(model, who, epoch) && !model.log.ended ? true : 'refused';
}

class Append implements Command {
  readonly #who: number;
  readonly #text: string;
  constructor(who: number, text: string) {
    this.#who = who;
    this.#text = text;
  }
  check = ({ replicas }: Readonly<Model>) => replicas[this.#who]?.epoch !== undefined;
  async run(model: Model, { id, records }: Real): Promise<void> {
    const me = model.replicas[this.#who] as Model['replicas'][number];
    const position = me.text.length + this.#text.length;
    const append = (records[this.#who] as StreamCommands).append(id, me.epoch as number, position, [
      { type: 'text', text: this.#text },
    ]);
    const written = await outcome(append);
    const expected = expectedOf(model, this.#who, me.epoch);
    same(written, expected, `append by ${this.#who}`);
    if (written !== true || model.log === undefined) return;
    me.text += this.#text;
    model.log.text = me.text;
  }
  toString = () => `append(${this.#who}, ${JSON.stringify(this.#text)})`;
}

class End implements Command {
  readonly #who: number;
  constructor(who: number) {
    this.#who = who;
  }
  check = ({ replicas }: Readonly<Model>) => replicas[this.#who]?.epoch !== undefined;
  async run(model: Model, { id, records }: Real): Promise<void> {
    const me = model.replicas[this.#who] as Model['replicas'][number];
    const names = { info: { id, model: 'm', graceMs: 1, owner: 'o' } };
    const end = (records[this.#who] as StreamCommands).end(names, me.epoch as number, me.text.length, {
      type: 'end',
      finishReason: 'stop',
    });
    const written = await outcome(end);
    const expected = expectedOf(model, this.#who, me.epoch);
    same(written, expected, `end by ${this.#who}`);
    if (written === true && model.log) model.log.ended = true;
  }
  toString = () => `end(${this.#who})`;
}

class TakeOver implements Command {
  readonly #who: number;
  constructor(who: number) {
    this.#who = who;
  }
  check = ({ log }: Readonly<Model>) => log !== undefined && log.producer !== this.#who;
  async run(model: Model, { id, records, names }: Real): Promise<void> {
    const log = model.log as NonNullable<Model['log']>;
    const dead = { replica: names[log.producer] as string, epoch: log.epoch };
    const { epoch, position } = (await (records[this.#who] as StreamCommands).takeOver(id, dead)) ?? {};
    const may = !model.replicas[log.producer]?.alive && !log.ended;
    same(epoch, may ? log.epoch + 1 : undefined, `taken over by ${this.#who}`);
    if (epoch === undefined) return;
    same(position, log.text.length, 'where it ends');
    model.log = { ...log, producer: this.#who, epoch };
    Object.assign(model.replicas[this.#who] as object, { epoch, text: log.text });
  }
  toString = () => `takeOver(${this.#who})`;
}

class Restore implements Command {
  readonly #who: number;
  constructor(who: number) {
    this.#who = who;
  }
  check = ({ replicas }: Readonly<Model>) => replicas[this.#who]?.epoch !== undefined;
  async run(model: Model, { id, records }: Real): Promise<void> {
    const me = model.replicas[this.#who] as Model['replicas'][number];
    const names = { info: { id, model: 'm', graceMs: 1, owner: 'o' } };
    const mine = records[this.#who] as StreamCommands;
    const position = await mine.restore(names, me.epoch as number);
    if (model.log === undefined) {
      same(position, 0, 'all of it is missing');
      if (me.text) await mine.append(id, me.epoch as number, me.text.length, [{ type: 'text', text: me.text }]);
      model.log = { producer: this.#who, epoch: me.epoch as number, text: me.text, ended: false };
      return;
    }
    const { text, ended } = model.log;
    same(
      position,
      owns(model, this.#who, me.epoch) ? (ended ? END_POSITION : text.length) : undefined,
      `restored by ${this.#who}`,
    );
  }
  toString = () => `restore(${this.#who})`;
}

class Lease implements Command {
  readonly #who: number;
  readonly #alive: boolean;
  constructor(who: number, alive: boolean) {
    this.#who = who;
    this.#alive = alive;
  }
  check = () => true;
  async run(model: Model, real: Real): Promise<void> {
    await real.setLease(this.#who, this.#alive);
    (model.replicas[this.#who] as { alive: boolean }).alive = this.#alive;
  }
  toString = () => `${this.#alive ? 'lives' : 'dies'}(${this.#who})`;
}

class Forget implements Command {
  check = () => true;
  async run(model: Model, real: Real): Promise<void> {
    await real.forget();
    model.log = undefined;
  }
  toString = () => 'expire()';
}

class Read implements Command {
  readonly #who: number;
  constructor(who: number) {
    this.#who = who;
  }
  check = () => true;
  async run({ log }: Model, { id, records }: Real): Promise<void> {
    const entries = await (records[this.#who] as StreamCommands).entriesAfter(id, '0-0', 1_000);
    const text = entries.flatMap(({ parts }) => parts.map((part) => (part.type === 'text' ? part.text : ''))).join('');
    same(text, log?.text ?? '', 'what is read');
    same(entries.filter(({ terminal }) => terminal).length, log?.ended ? 1 : 0, 'ends');
  }
  toString = () => `read(${this.#who})`;
}

function same(actual: unknown, expected: unknown, what: string): void {
  if (actual !== expected)
    throw new Error(`${what}: got ${JSON.stringify(actual)}, wanted ${JSON.stringify(expected)}`);
}

t.test('two producers, and Redis between them', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const stores = [await redisStore(t, redis, {}, 'model'), await redisStore(t, redis, {}, 'model')];
  const clusters = stores.map(({ cluster }) => cluster);
  const records = clusters.map((cluster) => new StreamCommands({ cluster, ttlMs: 60_000, maxLogMs: 60_000 }));
  // The leases of the model's own replicas are set by hand.
  const commands = [
    fc.tuple(replica, words).map(([who, text]) => new Append(who, text)),
    fc.tuple(replica, words).map(([who, text]) => new Append(who, text)),
    replica.map((who) => new End(who)),
    replica.map((who) => new TakeOver(who)),
    replica.map((who) => new TakeOver(who)),
    replica.map((who) => new Restore(who)),
    fc.tuple(replica, fc.boolean()).map(([who, alive]) => new Lease(who, alive)),
    fc.constant(new Forget()),
    replica.map((who) => new Read(who)),
  ];
  for (const { cluster } of stores) await cluster.lease.close();
  const run = fc.asyncProperty(fc.commands(commands, { maxCommands: 40 }), async (sequence) => {
    const id = newId();
    await (records[0] as StreamCommands).create({ info: { id, model: 'm', graceMs: 1, owner: 'o' } });
    const real: Real = {
      id,
      records,
      names: clusters.map((cluster) => cluster.replica),
      async setLease(who, alive) {
        const key = (clusters[who] as (typeof clusters)[number]).leaseKey(
          (clusters[who] as { replica: string }).replica,
        );
        if (alive) await redis.client.set(key, '1', 'PX', 60_000);
        else await redis.client.del(key);
      },
      async forget() {
        await redis.client.del(`model:meta:${id}`, `model:log:${id}`);
      },
    };
    for (const who of [0, 1]) await real.setLease(who, true);
    const model: Model = {
      log: { producer: 0, epoch: 1, text: '', ended: false },
      replicas: [
        { epoch: 1, text: '', alive: true },
        { epoch: undefined, text: '', alive: true },
      ],
    };
    await fc.asyncModelRun(() => ({ model, real }), sequence);
  });
  await fc.assert(run, { numRuns: Number(process.env.RUNS ?? 150) });
  t.pass('every sequence holds');
});
