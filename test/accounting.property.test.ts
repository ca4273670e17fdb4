import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import type { FastifyInstance } from 'fastify';
import t from 'tap';
import { MemoryStore } from '../plugins/streams/memory/store.ts';
import { StoreFull } from '../plugins/streams/types.ts';
import { ProviderError } from '../providers/errors.ts';
import {
  type Asked,
  assertCharged,
  assertFreeCapacity,
  assertFreeSlots,
  type Call,
  COUNTER,
  chargedTokens,
  endAll,
  keyOf,
  type Model,
  type OwnerName,
  questionOf,
  type Service,
  send,
  startService,
} from './accounting.ts';
import { bearer, until } from './helper.ts';
import { manualClock } from './manual-clock.ts';
import { manualDate } from './manual-date.ts';
import { metricValue } from './metric-value.ts';
import { noRedis, persistentRedis, startRedis } from './redis.ts';

/**
 * Plays random mixes of questions and ends. Afterwards everything that was taken has been given back, exactly
 * once: slots of the process, of each provider and of each owner, tokens, and keys in Redis.
 */

const MEMORY_RUNS = Number(process.env.RUNS || 30);
const REDIS_RUNS = Number(process.env.RUNS || 8);
const SEED = process.env.SEED === undefined ? Date.now() % 2 ** 31 : Number(process.env.SEED);
const OPTIONS = { seed: SEED, endOnFailure: true };

const OWNERS = ['a', 'b'] as const;

type Route = 'get' | 'post' | 'streams' | 'v1' | 'v1 whole' | 'ui' | 'ticket';

type Step =
  | { do: 'ask'; owner: OwnerName; model: Model; route: Route; key: number; times: number; resumable: boolean }
  | { do: 'text' | 'leave'; index: number; size: number }
  | { do: 'stop'; owner: OwnerName; index: number }
  | { do: 'finish'; index: number; tokens: number | undefined }
  | { do: 'fail'; index: number; isClientFault: boolean }
  | { do: 'break'; index: number }
  | { do: 'store'; fault: 'full' | 'unavailable' | 'none' }
  | { do: 'overload'; isOverloaded: boolean }
  | { do: 'wait'; ms: number };

const index = fc.nat(20);
const ask = fc.record({
  do: fc.constant('ask' as const),
  owner: fc.constantFrom<OwnerName>('a', 'b'),
  model: fc.constantFrom<Model>('m1', 'm2', 'm12'),
  route: fc.constantFrom<Route>('get', 'post', 'streams', 'v1', 'v1 whole', 'ui', 'ticket'),
  /** Idempotency key; 0 for none. */
  key: fc.nat(3),
  /** Requests that are sent at the same time. */
  times: fc.constantFrom(1, 1, 2, 3),
  resumable: fc.boolean(),
});
const play: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constantFrom('text' as const, 'leave' as const, 'leave' as const), index, size: fc.nat(400) }),
  fc.record({ do: fc.constant('stop' as const), owner: fc.constantFrom(...OWNERS), index }),
  fc.record({ do: fc.constant('finish' as const), index, tokens: fc.option(fc.nat(300), { nil: undefined }) }),
  fc.record({ do: fc.constant('fail' as const), index, isClientFault: fc.boolean() }),
);
const disturb: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant('store' as const), fault: fc.constantFrom('full', 'unavailable', 'none', 'none') }),
  fc.record({ do: fc.constant('overload' as const), isOverloaded: fc.boolean() }),
  fc.record({ do: fc.constant('wait' as const), ms: fc.constantFrom(400, 15_000) }),
  fc.record({ do: fc.constant('break' as const), index }),
) as fc.Arbitrary<Step>;

const UNAVAILABLE = new ProviderError('upstream_failed', { reason: 'http_500', retryable: true });
const REJECTED = new ProviderError('upstream_rejected', { reason: 'http_400', retryable: false, upstreamStatus: 400 });

/** A run of random steps on one or more processes. */
interface Run {
  /** Chooses the keys of this run. */
  readonly number: number;
  /** The processes that are alive. */
  readonly services: Service[];
  readonly asked: Asked[];
  /** Called when a reader has closed its connection. */
  onLeft(): unknown;
  /** Plays the steps that concern the process and not a question. */
  disturb(step: Step): unknown;
}

const pick = <T>(list: readonly T[], n: number): T | undefined => list[n % Math.max(1, list.length)];
const callsOf = ({ services }: Run): Call[] => services.flatMap(({ calls }) => calls);
const liveCalls = (run: Run): Call[] => callsOf(run).filter(({ isOver }) => !isOver);

type Ask = Extract<Step, { do: 'ask' }>;

/** Returns a function that sends the question of a step to a process. */
async function prepare(run: Run, { owner, model, route, key, resumable }: Ask, number: number) {
  const ownerKey = keyOf(owner, run.number);
  const idempotencyKey = key === 0 ? undefined : `k${key}`;
  const question = questionOf(idempotencyKey ?? `n${number}`);
  const headers = { ...bearer(ownerKey), ...(idempotencyKey && { 'idempotency-key': idempotencyKey }) };
  const messages = [{ role: 'user', content: question }];
  const post = (path: string, body: object) => (service: Service) =>
    send(service.url + path, question, { headers, body: { ...body, model } });
  const get = (query: string, credentials: Record<string, string>) => (service: Service) => {
    const url = `${service.url}/ask/stream?question=${question}&model=${model}${query}`;
    return send(url, question, { method: 'GET', headers: credentials });
  };
  switch (route) {
    case 'get':
      return get(idempotencyKey ? `&key=${idempotencyKey}` : '', bearer(ownerKey));
    case 'post':
      return post('/ask/stream', { question, resumable });
    case 'v1':
      return post('/v1/chat/completions', { messages, stream: true });
    case 'v1 whole':
      return post('/v1/chat/completions', { messages });
    case 'ui':
      return post('/ui/chat', {
        id: 'c',
        resumable,
        messages: [{ id: 'm', role: 'user', parts: [{ type: 'text', text: question }] }],
      });
    case 'streams':
      return post('/streams', { question });
    case 'ticket': {
      const { app } = run.services[0] as Service;
      const options = { method: 'POST', url: '/tickets', headers: bearer(ownerKey), payload: {} } as const;
      return get(`&ticket=${(await app.inject(options)).json().ticket}`, {});
    }
  }
}

let questions = 0;

async function askQuestion(run: Run, step: Ask): Promise<void> {
  questions += 1;
  const sendTo = await prepare(run, step, questions % 10_000);
  const sent = Array.from({ length: step.times }, (_, i) => sendTo(pick(run.services, step.key + i) as Service));
  run.asked.push(...sent);
  const hasArrived = ({ status, question }: Asked) =>
    status !== undefined || callsOf(run).some((call) => call.question === question);
  await until(() => sent.every(hasArrived), 'every question is answered or has reached a model');
}

async function playStep(run: Run, step: Step): Promise<void> {
  switch (step.do) {
    case 'ask':
      return askQuestion(run, step);
    case 'text':
      return pick(liveCalls(run), step.index)?.text(step.size + 1);
    case 'finish':
      return pick(liveCalls(run), step.index)?.finish(
        step.tokens === undefined ? undefined : { totalTokens: step.tokens },
      );
    case 'fail':
      return pick(liveCalls(run), step.index)?.fail(step.isClientFault ? REJECTED : UNAVAILABLE);
    case 'leave': {
      const reader = pick(
        run.asked.filter(({ isClosed }) => !isClosed),
        step.index,
      );
      reader?.leave();
      await until(() => reader?.isClosed !== false, 'the reader has left');
      await run.onLeft();
      return;
    }
    case 'stop': {
      const id = pick(
        run.asked.flatMap(({ stream }) => stream ?? []),
        step.index,
      );
      const { app } = pick(run.services, step.index) as Service;
      const headers = bearer(keyOf(step.owner, run.number));
      if (id !== undefined) await app.inject({ method: 'DELETE', url: `/streams/${id}`, headers });
      return;
    }
    default:
      await run.disturb(step);
  }
}

/** More than the steps in which a question waits for the store before it counts as running. */
const MAX_STORE_STEPS = 10;

/** Ends everything that runs, and waits until every request is answered. */
async function settle(run: Run, advance?: () => void): Promise<void> {
  await until(() => {
    advance?.();
    for (const { calls } of run.services) for (const call of calls.splice(0)) if (!call.isOver) call.finish();
    return run.asked.every(({ isClosed }) => isClosed);
  }, 'every request is answered');
  // A client that has left sees its connection closed before the service has read the request.
  for (const { app } of run.services)
    await until(async () => (await openConnections(app)) === 0, 'no connection is open');
  // Its question may still wait for the store.
  for (let i = 0; i < MAX_STORE_STEPS; i++) {
    for (const { app } of run.services) await app.cluster?.connection.run((client) => client.ping());
    await turn();
  }
  await endAll(run.services, advance);
}

function openConnections({ server }: FastifyInstance): Promise<number> {
  return new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
  });
}

const GAUGES = ['sluice_generations_active', 'sluice_readers', 'sluice_responses_open', 'sluice_breaker_state'];

async function assertGauges(services: readonly Service[]): Promise<void> {
  for (const { app } of services) {
    for (const name of GAUGES) {
      await until(async () => (await metricValue(app, name)) === 0, `${name} is 0`, 5_000);
    }
  }
}

/** Asserts that no stream of this run has ended twice. */
function assertOneEndEach(services: readonly Service[]): void {
  const ids = services.flatMap(({ ends }) => ends.map(({ stream }) => stream));
  if (new Set(ids).size !== ids.length) throw new Error('a stream has ended twice');
}

const weighted = (...disturbances: fc.WeightedArbitrary<Step>[]) =>
  fc.array(fc.oneof({ arbitrary: ask, weight: 8 }, { arbitrary: play, weight: 12 }, ...disturbances), {
    minLength: 15,
    maxLength: 25,
    size: 'max',
  });

/** Asserts that the two owners of a run pay for what their ended streams have used, and that metrics tell the same. */
async function assertChargedByEnds(services: readonly Service[], run: number): Promise<void> {
  for (const owner of OWNERS) {
    const key = keyOf(owner, run);
    const charged = await chargedTokens(services, key);
    const counted = await countedTokens(services, key);
    if (counted !== charged) throw new Error(`${key}: sluice_tokens_total is ${counted}, charged are ${charged}`);
    const recorded = recordedTokens(services, key);
    if (recorded !== charged) throw new Error(`${key}: the usage records have ${recorded}, charged are ${charged}`);
    await assertCharged(services, owner, run, charged);
  }
}

/** Returns the tokens in the usage records of a key. Each generation has one record, and its calls have all tokens. */
function recordedTokens(services: readonly Service[], key: string): number {
  const records = services.flatMap((service) => service.records.filter((record) => record.key === key));
  if (new Set(records.map(({ stream }) => stream)).size !== records.length) throw new Error('a stream has two records');
  let sum = 0;
  for (const { inputTokens, outputTokens, attempts } of records) {
    const ofCalls = attempts.reduce((all, call) => all + call.inputTokens + call.outputTokens, 0);
    if (ofCalls !== inputTokens + outputTokens) throw new Error(`${key}: the calls of a record have ${ofCalls} tokens`);
    sum += ofCalls;
  }
  return sum;
}

/** Returns the tokens that all processes have counted for a key. */
async function countedTokens(services: readonly Service[], key: string): Promise<number> {
  let sum = 0;
  for (const { app } of services) {
    for (const kind of ['input', 'output']) sum += await metricValue(app, 'sluice_tokens_total', { key, kind });
  }
  return sum;
}

t.test('in memory, everything that random questions take is given back once', { timeout: 120_000 }, async (t) => {
  const clock = manualClock();
  const date = manualDate(t);
  let fault: 'full' | 'unavailable' | 'none' = 'none';
  class FaultyStore extends MemoryStore {
    override async create(...args: Parameters<MemoryStore['create']>) {
      await turn(); // As a store that is not in this process.
      if (fault === 'full') throw new StoreFull();
      if (fault === 'unavailable') throw new Error('unavailable');
      return super.create(...args);
    }
  }
  const store = new FaultyStore({
    clock,
    highWaterMark: 16_384,
    flushMs: 0,
    ttlMs: 86_400_000,
    maxTotalBytes: 1e9,
    onEvicted() {},
  });
  const service = await startService(t, MEMORY_RUNS, { clock, store });
  const services = [service];
  let isOverloaded = false;
  Object.assign(service.app.load, { isOverloaded: () => isOverloaded });

  const openBreakers = () => service.app.llm.targets().filter(({ state }) => state !== 'closed').length;
  /** Lets questions of a model fail until its breaker opens, and time pass until a question may probe it. */
  const openBreaker = async (model: Model) => {
    const before = openBreakers();
    const sent = Array.from({ length: 4 }, (_, i) => {
      const question = questionOf(`b${i}`);
      return send(`${service.url}/ask/stream`, question, { headers: bearer(COUNTER), body: { question, model } });
    });
    const fail = async () => {
      for (const call of service.calls) if (call.question.includes('b')) call.fail(UNAVAILABLE);
      await turn();
      clock.advance(100); // The wait before a retry.
    };
    for (let i = 0; i < 50 && openBreakers() === before; i++) await fail();
    // On a busy machine some arrive only now.
    await until(async () => {
      await fail();
      return sent.every(({ isClosed }) => isClosed);
    }, 'every failing question is answered');
    clock.advance(6_000);
  };
  /** Lets open breakers close: time passes, and each target answers one question. */
  const closeBreakers = async () => {
    for (const model of ['m1', 'm2'] as const) {
      clock.advance(60_000);
      const question = questionOf('heal');
      const asked = send(`${service.url}/ask/stream`, question, {
        headers: bearer(COUNTER),
        body: { question, model },
      });
      await until(() => {
        for (const call of service.calls) if (call.question === question) call.finish({ totalTokens: 0 });
        return asked.isClosed;
      }, 'a target answers again');
    }
    await endAll(services, () => clock.advance(1_000));
  };

  let number = 0;
  await fc.assert(
    fc.asyncProperty(weighted({ arbitrary: disturb, weight: 2 }), async (steps) => {
      const run: Run = {
        number: number++,
        services,
        asked: [],
        async onLeft() {
          await turn();
          clock.advance(0); // Answers without a grace time end at once.
        },
        disturb(step) {
          if (step.do === 'store') fault = step.fault;
          if (step.do === 'overload') isOverloaded = step.isOverloaded;
          if (step.do === 'wait') clock.advance(step.ms);
          return step.do === 'break' ? openBreaker(step.index % 2 ? 'm1' : 'm2') : turn();
        },
      };
      service.ends.length = 0;
      for (const step of steps) await playStep(run, step);
      fault = 'none';
      isOverloaded = false;
      await settle(run, () => clock.advance(1_000));
      await closeBreakers();

      await assertGauges(services);
      assertOneEndEach(services);
      await assertChargedByEnds(services, run.number);
      date.advance(60_000);
      await assertFreeCapacity(service);
      for (const owner of OWNERS) await assertFreeSlots(services, owner, run.number);
    }),
    { ...OPTIONS, numRuns: MEMORY_RUNS },
  );
  t.pass(`${MEMORY_RUNS} runs, seed ${SEED}`);
});

t.test(
  'with Redis, everything that two replicas take is given back once',
  { skip: noRedis, timeout: 120_000 },
  async (t) => {
    const redis = await startRedis(t, ...persistentRedis(t));
    const startReplica = async () => {
      const service = await startService(t, REDIS_RUNS, { env: { REDIS_URL: redis.url, REDIS_PREFIX: 'p' } });
      await until(() => service.app.cluster?.connection.isAvailable === true, 'the replica is connected to Redis');
      return service;
    };
    const replicas = [await startReplica(), await startReplica()];

    /** As `kill -9`: the replica sends nothing more, and its lease expires. */
    const kill = async ({ app }: Service) => {
      const { cluster } = app;
      await cluster?.connection.run((client) => client.ping()); // What it has sent before has arrived.
      cluster?.connection.close();
      cluster?.mailbox.close();
      await redis.client.del(cluster?.leaseKey(cluster.replica) as string);
    };
    /** Kills Redis, plays ends that it does not hear of, and starts it again with its data. */
    const restartRedis = async (run: Run, ends: readonly Step[]) => {
      const isUp = ({ app }: Service) => app.cluster?.connection.isAvailable === true;
      await redis.stop();
      await until(() => !run.services.some(isUp), 'Redis is unavailable');
      for (const step of ends) await playStep(run, step);
      await redis.start();
      await until(() => run.services.every(isUp), 'Redis is available again');
      // Then it has what the ends have charged and released.
      const renewed = run.services.map(({ app }) => new Promise<void>((done) => app.cluster?.lease.onRenewed(done)));
      await Promise.all(renewed);
    };
    const keysLike = (pattern: string) => redis.client.keys(pattern);

    const degraded = async () => {
      const counts = await Promise.all(replicas.map(({ app }) => metricValue(app, 'sluice_limiter_degraded_total')));
      return counts.reduce((sum, count) => sum + count, 0);
    };
    let afterOutage = 0;
    let number = 0;
    const isKilledAt = fc.option(fc.nat(30), { nil: undefined, freq: 2 });
    const outage = fc.option(fc.record({ at: fc.nat(24), ends: fc.array(play, { minLength: 3, maxLength: 6 }) }), {
      freq: 1,
      nil: undefined,
    });
    await fc.assert(
      fc.asyncProperty(weighted(), isKilledAt, outage, async (steps, killedAt, outage) => {
        const third = killedAt === undefined ? undefined : await startReplica();
        const before = await degraded();
        const run: Run = {
          number: number++,
          services: third ? [...replicas, third] : [...replicas],
          asked: [],
          onLeft: () => turn(),
          disturb() {},
        };
        for (const { ends } of run.services) ends.length = 0;
        for (const [i, step] of steps.entries()) {
          if (third && i === Math.min(killedAt as number, steps.length - 1)) {
            await kill(third);
            run.services.pop();
          }
          // A failure that counts against the target would be retried after a wait.
          const played = (step: Step): Step => (step.do === 'fail' ? { ...step, isClientFault: true } : step);
          if (outage && i === Math.min(outage.at, steps.length - 1)) await restartRedis(run, outage.ends.map(played));
          await playStep(run, played(step));
        }
        if (third) for (const asked of run.asked) asked.leave();
        await settle(run);

        await assertGauges(replicas);
        assertOneEndEach(run.services);
        // A replica that is gone cannot correct the estimates of its generations. A question that starts while Redis is
        // unavailable is charged to the share of its replica.
        if (third === undefined && (await degraded()) === before) {
          await assertChargedByEnds(replicas, run.number);
          if (outage) afterOutage += 1;
        }
        const minute = await keysLike('p:limit:tokens:*');
        if (minute.length > 0) await redis.client.del(minute);
        for (const replica of replicas) await assertFreeCapacity(replica);
        for (const owner of OWNERS) await assertFreeSlots(replicas, owner, run.number);
        await endAll(replicas);
        const running = await keysLike('p:running:*');
        if (running.length > 0) throw new Error(`Redis still counts generations: ${running}`);
        for (const key of await keysLike('*')) {
          if ((await redis.client.pttl(key)) === -1) throw new Error(`the key ${key} does not expire`);
        }
        if (third) for (const call of third.calls) call.finish();
      }),
      { ...OPTIONS, numRuns: REDIS_RUNS },
    );
    t.pass(`${REDIS_RUNS} runs, ${afterOutage} of them charged exactly after a restart of Redis, seed ${SEED}`);
  },
);
