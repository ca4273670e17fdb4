import fc from 'fast-check';
import t from 'tap';
import { StreamCommands } from '../../plugins/streams/redis/commands.ts';
import { END_POSITION } from '../../plugins/streams/redis/entries.ts';
import { isStaleProducerError } from '../../plugins/streams/redis/stale-producer.ts';
import { noRedis, startRedis } from '../redis.ts';
import { newId } from './conformance.ts';
import { redisStore } from './redis-replica.ts';

/**
 * Runs random sequences of append, read, end, death, takeover, restore and expiry on two replicas, each of
 * which may believe that it is the producer. At most one of them can write, and Redis holds what it wrote.
 */

interface Model {
  /** Expected content of Redis; undefined if the log is missing. */
  log: { producer: number; epoch: number; text: string; ended: boolean } | undefined;
  /** State that each replica believes in. */
  readonly replicas: { epoch: number | undefined; text: string; alive: boolean }[];
}

interface Real {
  readonly id: string;
  readonly commands: StreamCommands[];
  setLease(replica: number, alive: boolean): Promise<void>;
  /** Deletes the log from Redis, as if it had expired. */
  expire(): Promise<void>;
  readonly replicaIds: string[];
}

type Command = fc.AsyncCommand<Model, Real>;

const replicaIndex = fc.nat({ max: 1 });
const appendedText = fc.string({ minLength: 1, maxLength: 5, unit: 'grapheme' });

/** Returns true if a replica with this epoch is the producer. */
const isProducer = ({ log }: Model, replica: number, epoch: number | undefined) =>
  log !== undefined && log.producer === replica && log.epoch === epoch;

/** Returns the outcome of a write: true, false if the log is missing, or `rejected`. */
const outcomeOf = (write: Promise<boolean>) =>
  write.catch((error: unknown) => {
    if (isStaleProducerError(error)) return 'rejected';
    throw error;
  });

function expectedOutcome(model: Model, replica: number, epoch: number | undefined): boolean | 'rejected' {
  if (model.log === undefined) return false;
  return isProducer(model, replica, epoch) && !model.log.ended ? true : 'rejected';
}

class Append implements Command {
  readonly #replica: number;
  readonly #text: string;
  constructor(replica: number, text: string) {
    this.#replica = replica;
    this.#text = text;
  }
  check = ({ replicas }: Readonly<Model>) => replicas[this.#replica]?.epoch !== undefined;
  async run(model: Model, { id, commands }: Real): Promise<void> {
    const state = model.replicas[this.#replica] as Model['replicas'][number];
    const position = state.text.length + this.#text.length;
    const append = (commands[this.#replica] as StreamCommands).append(id, state.epoch as number, position, [
      { part: { type: 'text', text: this.#text } },
    ]);
    const written = await outcomeOf(append);
    const expected = expectedOutcome(model, this.#replica, state.epoch);
    same(written, expected, `append by ${this.#replica}`);
    if (written !== true || model.log === undefined) return;
    state.text += this.#text;
    model.log.text = state.text;
  }
  toString = () => `append(${this.#replica}, ${JSON.stringify(this.#text)})`;
}

class End implements Command {
  readonly #replica: number;
  constructor(replica: number) {
    this.#replica = replica;
  }
  check = ({ replicas }: Readonly<Model>) => replicas[this.#replica]?.epoch !== undefined;
  async run(model: Model, { id, commands }: Real): Promise<void> {
    const state = model.replicas[this.#replica] as Model['replicas'][number];
    const keys = { info: { id, model: 'm', graceMs: 1, owner: 'o' } };
    const end = (commands[this.#replica] as StreamCommands).end(keys, state.epoch as number, state.text.length, {
      type: 'end',
      finishReason: 'stop',
    });
    const written = await outcomeOf(end);
    const expected = expectedOutcome(model, this.#replica, state.epoch);
    same(written, expected, `end by ${this.#replica}`);
    if (written === true && model.log) model.log.ended = true;
  }
  toString = () => `end(${this.#replica})`;
}

class TakeOver implements Command {
  readonly #replica: number;
  constructor(replica: number) {
    this.#replica = replica;
  }
  check = ({ log }: Readonly<Model>) => log !== undefined && log.producer !== this.#replica;
  async run(model: Model, { id, commands, replicaIds }: Real): Promise<void> {
    const log = model.log as NonNullable<Model['log']>;
    const dead = { replica: replicaIds[log.producer] as string, epoch: log.epoch };
    const { epoch, position } = (await (commands[this.#replica] as StreamCommands).takeOver(id, dead)) ?? {};
    const isAllowed = !model.replicas[log.producer]?.alive && !log.ended;
    same(epoch, isAllowed ? log.epoch + 1 : undefined, `takeover by ${this.#replica}`);
    if (epoch === undefined) return;
    same(position, log.text.length, 'position of the takeover');
    model.log = { ...log, producer: this.#replica, epoch };
    Object.assign(model.replicas[this.#replica] as object, { epoch, text: log.text });
  }
  toString = () => `takeOver(${this.#replica})`;
}

class Restore implements Command {
  readonly #replica: number;
  constructor(replica: number) {
    this.#replica = replica;
  }
  check = ({ replicas }: Readonly<Model>) => replicas[this.#replica]?.epoch !== undefined;
  async run(model: Model, { id, commands }: Real): Promise<void> {
    const state = model.replicas[this.#replica] as Model['replicas'][number];
    const keys = { info: { id, model: 'm', graceMs: 1, owner: 'o' } };
    const own = commands[this.#replica] as StreamCommands;
    const position = await own.restore(keys, state.epoch as number);
    if (model.log === undefined) {
      same(position, 0, 'position of an empty log');
      if (state.text)
        await own.append(id, state.epoch as number, state.text.length, [{ part: { type: 'text', text: state.text } }]);
      model.log = { producer: this.#replica, epoch: state.epoch as number, text: state.text, ended: false };
      return;
    }
    const { text, ended } = model.log;
    same(
      position,
      isProducer(model, this.#replica, state.epoch) ? (ended ? END_POSITION : text.length) : undefined,
      `restore by ${this.#replica}`,
    );
  }
  toString = () => `restore(${this.#replica})`;
}

class SetLease implements Command {
  readonly #replica: number;
  readonly #alive: boolean;
  constructor(replica: number, alive: boolean) {
    this.#replica = replica;
    this.#alive = alive;
  }
  check = () => true;
  async run(model: Model, real: Real): Promise<void> {
    await real.setLease(this.#replica, this.#alive);
    (model.replicas[this.#replica] as { alive: boolean }).alive = this.#alive;
  }
  toString = () => `setLease(${this.#replica}, ${this.#alive})`;
}

class Expire implements Command {
  check = () => true;
  async run(model: Model, real: Real): Promise<void> {
    await real.expire();
    model.log = undefined;
  }
  toString = () => 'expire()';
}

class Read implements Command {
  readonly #replica: number;
  constructor(replica: number) {
    this.#replica = replica;
  }
  check = () => true;
  async run({ log }: Model, { id, commands }: Real): Promise<void> {
    const entries = await (commands[this.#replica] as StreamCommands).entriesAfter(id, '0-0', 1_000);
    const text = entries
      .flatMap(({ parts }) => parts.map(({ part }) => (part.type === 'text' ? part.text : '')))
      .join('');
    same(text, log?.text ?? '', 'text in Redis');
    same(entries.filter(({ terminal }) => terminal).length, log?.ended ? 1 : 0, 'terminals in Redis');
  }
  toString = () => `read(${this.#replica})`;
}

function same(actual: unknown, expected: unknown, what: string): void {
  if (actual !== expected)
    throw new Error(`${what}: got ${JSON.stringify(actual)}, expected ${JSON.stringify(expected)}`);
}

t.test('random commands of two replicas: only the current producer writes the log', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const stores = [await redisStore(t, redis, {}, 'model'), await redisStore(t, redis, {}, 'model')];
  const clusters = stores.map(({ cluster }) => cluster);
  const commands = clusters.map((cluster) => new StreamCommands({ cluster, ttlMs: 60_000, maxLogMs: () => 60_000 }));
  const arbitraries = [
    fc.tuple(replicaIndex, appendedText).map(([replica, text]) => new Append(replica, text)),
    fc.tuple(replicaIndex, appendedText).map(([replica, text]) => new Append(replica, text)),
    replicaIndex.map((replica) => new End(replica)),
    replicaIndex.map((replica) => new TakeOver(replica)),
    replicaIndex.map((replica) => new TakeOver(replica)),
    replicaIndex.map((replica) => new Restore(replica)),
    fc.tuple(replicaIndex, fc.boolean()).map(([replica, alive]) => new SetLease(replica, alive)),
    fc.constant(new Expire()),
    replicaIndex.map((replica) => new Read(replica)),
  ];
  // The sequences set the leases of these replicas.
  for (const { cluster } of stores) await cluster.lease.close();
  const run = fc.asyncProperty(fc.commands(arbitraries, { maxCommands: 40 }), async (sequence) => {
    const id = newId();
    await (commands[0] as StreamCommands).create({ info: { id, model: 'm', graceMs: 1, owner: 'o' } });
    const real: Real = {
      id,
      commands,
      replicaIds: clusters.map((cluster) => cluster.replica),
      async setLease(index, alive) {
        const cluster = clusters[index] as (typeof clusters)[number];
        const key = cluster.leaseKey(cluster.replica);
        if (alive) await redis.client.set(key, '1', 'PX', 60_000);
        else await redis.client.del(key);
      },
      async expire() {
        await redis.client.del(`model:meta:{${id}}`, `model:log:{${id}}`);
      },
    };
    for (const index of [0, 1]) await real.setLease(index, true);
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
  t.pass('every sequence matches the model');
});
