import { monitorEventLoopDelay, performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';
import type { Test } from 'tap';
import { type Clock, systemClock } from '../../plugins/clock.ts';
import { type FaultyNetwork, faultyNetwork } from '../faulty-network.ts';
import { bellaAt, serve, until, writeConfig } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import type { RedisServer } from '../redis.ts';
import { type Call, DONE, STOP, sse, startUpstream, text, type Upstream } from '../upstream.ts';
import { Page } from './page.ts';

/** Two replicas, each behind a network of its own to Redis, with what clients and the upstream do to them. */

export const GRACE_MS = 1_500;
/** A replica does not report that its readers have got the end; the producer forgets them within this time. */
const SILENCE_MS = 5_250;
/** A delay of the event loop by which a message between replicas can come too late. */
const LONG_DELAY_MS = GRACE_MS / 4;
/** An outage from which other replicas may conclude that a replica is dead. */
const LONG_OUTAGE_MS = 2_000;

/** Timers of a replica at rest: of heartbeats, of the lease, and of the check that messages arrive. */
const TIMERS_AT_REST = 3;

export const FAULTS = ['cut', 'delay', 'hold', 'holdMessages', 'holdCommands', 'swallowMessages', 'swallow'] as const;
export type Fault = (typeof FAULTS)[number];

/** One question, its upstream call and its page. */
export interface Question {
  readonly name: string;
  readonly page: Page;
  readonly producer: number;
  written: string;
  /** The end of the answer of the upstream; undefined while it runs. */
  finished: 'end' | 'fail' | undefined;
  isStopRequested: boolean;
  /** True if at some time nobody read it for so long that it may have been abandoned. */
  mayBeAbandoned: boolean;
  leftAt: number | undefined;
  /** Time at which its page came to another replica than the producer. */
  movedAt: number | undefined;
}

interface Replica {
  readonly app: FastifyInstance;
  readonly url: string;
  readonly network: FaultyNetwork;
  /** Number of timers that the replica waits for. */
  timers(): number;
  /** Start of an outage that has not ended. */
  outageSince: number | undefined;
}

/** A clock that counts the timers that have not fired. */
function countingClock(): Clock & { pending(): number } {
  let pending = 0;
  return {
    now: systemClock.now,
    after(ms, fn) {
      pending += 1;
      let isPending = true;
      const settle = () => {
        if (isPending) pending -= 1;
        isPending = false;
      };
      const cancel = systemClock.after(ms, () => {
        settle();
        fn();
      });
      return () => {
        settle();
        cancel();
      };
    },
    pending: () => pending,
  };
}

export interface QuestionUpstream {
  readonly upstream: Upstream;
  readonly calls: Map<string, Call[]>;
  /** Configuration without a deadline that could pass on a busy machine. */
  readonly configFile: string;
}

/** Answers every call with what `Scenario` writes. The question names the call. */
export async function startQuestionUpstream(t: Test): Promise<QuestionUpstream> {
  const calls = new Map<string, Call[]>();
  const upstream = await startUpstream(t, (call) => {
    const { messages } = JSON.parse(call.body) as { messages: { content: string }[] };
    const name = messages[0]?.content as string;
    calls.set(name, [...(calls.get(name) ?? []), call]);
    sse(call.response).flushHeaders();
  });
  const configFile = writeConfig(t, 'deadlines: { firstTokenMs: 600000, idleMs: 600000 }');
  return { upstream, calls, configFile };
}

export class Scenario {
  readonly questions: Question[] = [];
  readonly #replicas: Replica[] = [];
  readonly #calls: Map<string, Call[]>;
  readonly #redis: RedisServer;
  readonly #prefix: string;
  readonly #stops: Promise<void>[] = [];
  readonly #eventLoopDelay = monitorEventLoopDelay();
  #hadFault = false;
  /** True if a replica was cut off for so long that others may have taken its streams over. */
  #hadLongOutage = false;

  private constructor(prefix: string, redis: RedisServer, calls: Map<string, Call[]>) {
    this.#prefix = prefix;
    this.#redis = redis;
    this.#calls = calls;
  }

  static async start(
    t: Test,
    prefix: string,
    redis: RedisServer,
    { upstream, calls, configFile }: QuestionUpstream,
  ): Promise<Scenario> {
    const scenario = new Scenario(prefix, redis, calls);
    for (let i = 0; i < 2; i++) {
      const network = await faultyNetwork(t, redis.port);
      const clock = countingClock();
      const env = bellaAt(upstream.url, {
        REDIS_URL: `redis://127.0.0.1:${network.port}`,
        REDIS_PREFIX: prefix,
        CONFIG_FILE: configFile,
        STREAM_GRACE_MS: String(GRACE_MS),
      });
      const { app, url } = await serve(t, { env, clock });
      await until(
        () => app.cluster?.connection.isAvailable === true && network.connections('messages') === 1,
        'the replica is connected to Redis',
      );
      await until(() => clock.pending() === TIMERS_AT_REST, 'the replica is at rest');
      scenario.#replicas.push({ app, url, network, timers: clock.pending, outageSince: undefined });
    }
    scenario.#eventLoopDelay.enable();
    return scenario;
  }

  ask(producer: number): void {
    const name = `${this.#prefix}-${this.questions.length}`;
    const page = new Page();
    page.attach(producer, this.#replica(producer).url, `/ask/stream?question=${name}&key=key-of-${name}-000000`);
    this.questions.push({
      name,
      page,
      producer,
      written: '',
      finished: undefined,
      isStopRequested: false,
      mayBeAbandoned: false,
      leftAt: undefined,
      movedAt: undefined,
    });
  }

  async write(question: Question, delta: string): Promise<void> {
    const call = await this.#call(question);
    if (call.closedAt !== undefined || question.finished !== undefined) return;
    question.written += delta;
    call.response.write(text(delta));
  }

  async finish(question: Question, how: 'end' | 'fail'): Promise<void> {
    const call = await this.#call(question);
    question.finished = how;
    if (call.closedAt !== undefined) return;
    if (how === 'end') {
      call.response.end(STOP + DONE);
      return;
    }
    question.written += 'last';
    call.response.end(`${text('last')}data: {"error":{"message":"failed","type":"server_error"}}\n\n`);
  }

  async leave(question: Question): Promise<void> {
    await this.#started(question);
    question.page.leave();
    question.leftAt = performance.now();
  }

  async comeBack(question: Question, replica: number): Promise<void> {
    await this.#started(question);
    // It may come too late, or to a replica that cannot tell the producer in time.
    if (question.leftAt === undefined || performance.now() - question.leftAt > GRACE_MS / 2)
      question.mayBeAbandoned = true;
    question.movedAt = replica === question.producer ? undefined : performance.now();
    if (question.movedAt !== undefined && this.#hadFault) question.mayBeAbandoned = true;
    question.leftAt = undefined;
    question.page.attach(replica, this.#replica(replica).url, '');
  }

  /** Stops a stream as a client does, which repeats the request while it is refused. */
  async stop(question: Question, replica: number): Promise<void> {
    const path = await this.#started(question);
    question.isStopRequested = true;
    const send = async () => {
      for (;;) {
        const { status } = await fetch(this.#replica(replica).url + path, { method: 'DELETE' });
        // While a fault kept the stream out of Redis, it could not be known elsewhere. Its client is told so.
        if (status === 404 && this.#hadFault) question.isStopRequested = false;
        if (status !== 503) return;
        await sleep(100); // The pause of the client.
      }
    };
    this.#stops.push(send());
  }

  disturb(index: number, fault: Fault): void {
    const replica = this.#replica(index);
    const { network } = replica;
    this.#hadFault = true;
    // The producer may not have been told yet that a page reads elsewhere.
    for (const question of this.questions) {
      if (performance.now() - (question.movedAt ?? Number.NEGATIVE_INFINITY) < GRACE_MS / 2)
        question.mayBeAbandoned = true;
    }
    if (fault !== 'cut' && fault !== 'delay') replica.outageSince ??= performance.now();
    if (fault === 'cut') network.cut();
    else if (fault === 'delay') network.delay(30);
    else if (fault === 'hold') network.hold('commands', 'messages');
    else if (fault === 'holdMessages') network.hold('messages');
    else if (fault === 'holdCommands') network.hold('commands');
    else if (fault === 'swallowMessages') network.swallow('messages');
    else {
      network.swallow('commands', 'messages');
      this.#hadLongOutage = true;
    }
  }

  heal(index: number): void {
    const replica = this.#replica(index);
    const { outageSince, network } = replica;
    if (outageSince !== undefined && performance.now() - outageSince > LONG_OUTAGE_MS) this.#hadLongOutage = true;
    replica.outageSince = undefined;
    network.heal();
  }

  /** Heals the network, lets every answer end, and checks what clients, the upstream, Redis and the replicas have. */
  async check(): Promise<void> {
    for (const index of this.#replicas.keys()) this.heal(index);
    await until(
      () => this.#replicas.every(({ app }) => app.cluster?.connection.isAvailable === true),
      'every replica is connected to Redis',
    );
    await Promise.all(this.questions.map((question) => this.#checkRunning(question)));
    await Promise.all(this.#stops);
    // For so long that a producer that forgets readers because of the fault would end their calls.
    if (this.#hadFault) await sleep(SILENCE_MS + GRACE_MS);
    await Promise.all(this.questions.map((question) => this.#checkEnded(question)));
    for (const { app, timers } of this.#replicas) {
      await until(() => app.streams.active === 0, 'no generation is running');
      await until(
        async () =>
          (await metricValue(app, 'sluice_readers')) === 0 &&
          (await metricValue(app, 'sluice_generations_active')) === 0,
        'the gauges are at 0',
      );
      // One timer expires ended streams.
      await until(() => timers() <= TIMERS_AT_REST + 1, 'the replica waits for nothing more');
    }
    const { client } = this.#redis;
    for (const key of await client.keys(`${this.#prefix}:*`)) {
      if ((await client.pttl(key)) === -1) throw new Error(`${key} has no time to live`);
    }
  }

  /** While the answer runs: pages get what is written, and calls run only for pages. */
  async #checkRunning(question: Question): Promise<void> {
    const { page, name } = question;
    const call = await this.#call(question);
    if (page.replica === undefined) {
      await until(() => call.closedAt !== undefined, `the call of ${name}, which nobody reads, ends`);
      return;
    }
    await this.write(question, `and more ${question.written.length}`);
    await until(
      () => page.terminal !== undefined || page.text === question.written,
      `the page of ${name} gets what was written`,
    );
    // A refused stop is withdrawn, maybe only now.
    const isStopped = () => !question.isStopRequested || call.closedAt !== undefined;
    await until(isStopped, `the call of ${name}, which was stopped, ends`);
  }

  async #checkEnded(question: Question): Promise<void> {
    const { page, name, finished } = question;
    const call = await this.#call(question);
    if (finished === undefined) await this.finish(question, 'end');
    if (page.replica !== undefined) {
      await until(() => page.terminal !== undefined, `the page of ${name} gets the end`);
    }
    await call.closed;
    const calls = this.#calls.get(name)?.length;
    const failures = await Promise.all(
      this.#replicas.map(({ app }) => metricValue(app, 'sluice_redis_failures_total')),
    );
    const fail = (what: string): never => {
      const { text: got, terminal, fault, resumable } = page;
      const lengths = { written: question.written.length, got: got.length, answer: terminal?.answer?.length };
      const { type, code, finishReason } = terminal ?? {};
      const { producer, isStopRequested, mayBeAbandoned } = question;
      throw new Error(
        `${name}: ${what}: ${JSON.stringify({ ...lengths, type, code, finishReason, fault, resumable, calls, producer, isStopRequested, mayBeAbandoned, finished, failures })}`,
      );
    };
    if (calls !== 1) fail('more than one call for a question');
    if (page.fault) fail(page.fault);
    if (!question.written.startsWith(page.text)) fail('wrong text');
    const { terminal } = page;
    if (terminal === undefined) return;
    if (terminal.type === 'end') {
      if (terminal.answer !== page.text) fail('the answer differs from the deltas');
      const isComplete = terminal.finishReason === 'stop';
      if (isComplete && page.text !== question.written) fail('text is missing before the end');
      if (!isComplete && !question.isStopRequested) fail('an answer is stopped that nobody stopped');
      return;
    }
    const expected = new Set<string | undefined>();
    if (finished === 'fail') expected.add('upstream_error');
    const isBusy = this.#eventLoopDelay.max / 1e6 > LONG_DELAY_MS;
    if (question.mayBeAbandoned || this.#hadLongOutage || isBusy) expected.add('abandoned').add('stream_unknown');
    if (this.#hadLongOutage) expected.add('stream_lost');
    // While Redis lacks a part of a stream, other replicas may not know it.
    if (this.#hadFault && page.replica !== question.producer) expected.add('stream_unknown');
    if (!expected.has(terminal.code)) fail(`unexpected ${terminal.code}`);
  }

  async #call({ name }: Question): Promise<Call> {
    await until(() => this.#calls.has(name), `the upstream is called for ${name}`);
    return this.#calls.get(name)?.[0] as Call;
  }

  async #started({ page, name }: Question): Promise<string> {
    await until(() => page.path !== undefined, `the page of ${name} has its first event`);
    return page.path as string;
  }

  #replica(index: number): Replica {
    return this.#replicas[index] as Replica;
  }
}
