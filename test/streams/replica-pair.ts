import { randomBytes } from 'node:crypto';
import { Redis } from 'ioredis';
import type { Test } from 'tap';
import type { Metrics } from '../../plugins/metrics/index.ts';
import { RedisUnavailable } from '../../plugins/redis/connection.ts';
import type { Cluster } from '../../plugins/redis/index.ts';
import { StreamCommands } from '../../plugins/streams/redis/commands.ts';
import { RedisStore, type RedisStoreOptions } from '../../plugins/streams/redis/store.ts';
import type { LogReader, ReadableLog, Slice } from '../../plugins/streams/types.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';

/**
 * Replicas of the Redis store on a clock that the test advances. Their commands run on a real Redis, their
 * messages and leases are under the control of the test.
 */

/** A message from one replica to another. */
export interface Message {
  readonly from: string;
  readonly to: string;
  readonly kind: string;
  // biome-ignore lint/suspicious/noExplicitAny: messages of every kind
  readonly body: any;
}

export interface TestReplica {
  readonly id: string;
  readonly store: RedisStore;
  readonly commands: StreamCommands;
  /** State of the lease, as the replica sees it. It exists in Redis until `die`. */
  readonly lease: { isHeld: boolean; renewedForMs: number };
  /** Time since the last subscription, as the replica sees it. */
  subscribedForMs: number;
  /** False while every command of the replica fails. */
  isConnected: boolean;
  /** If set, commands of the replica wait for it before they are sent. */
  delay: Promise<void> | undefined;
  /** Called before each command; throws what the command shall fail with. */
  onCommand(name: string): void;
  /** Number of logs that Redis did not have completely. */
  unsynced: number;
  evicted: number;
  /** Names of the commands sent to Redis until now. */
  readonly sent: string[];
  /** Connects again, and lets the store know. */
  reconnect(): void;
  /** True while messages to the replica do not arrive, and it knows. */
  cannotHear: boolean;
  /** Subscribes to messages again, as after a lost connection. */
  resubscribe(): void;
  /** Stops messages to the replica, and lets it know. */
  loseSubscription(): void;
  /** Lets the store know that the nodes of the cluster have changed. */
  changeNodes(): void;
  /** Lets the store know that the lease was renewed. */
  renewLease(): void;
  /** Lets the store know that the lease was missing. */
  missLease(): void;
  /** Cuts the replica off, expires its lease, and stops its timers. */
  die(): Promise<void>;
}

export interface TestReplicas {
  readonly clock: ManualClock;
  readonly redis: Redis;
  /** Messages sent until now, also those that were lost. */
  readonly messages: Message[];
  /** Sends a message in the name of a replica. */
  send(message: Message): void;
  /** Decides which messages are lost; none by default. */
  isLost(message: Message): boolean;
  /** Adds a replica. */
  add(settings?: Partial<RedisStoreOptions>): Promise<TestReplica>;
  /** Waits until nothing is on its way. */
  settle(): Promise<void>;
  /** Advances the clock in small steps and lets everything settle after each. */
  advance(ms: number, stepMs?: number): Promise<void>;
  /** Name of a key in Redis. */
  key(...names: string[]): string;
  /** Name of a key of a stream. */
  streamKey(kind: string, id: string): string;
  /** Name of the key of a lease. */
  leaseKey(id: string): string;
}

const STEP_MS = 250;
/** Turns of the event loop without activity, after which nothing is on its way. */
const QUIET_TURNS = 5;
/** Turns after which it is certain that something never ends. */
const MAX_TURNS = 100_000;

const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Lets everything run that does not wait for a command. */
export async function turns(count = 10): Promise<void> {
  for (let i = 0; i < count; i++) await turn();
}

/** Creates replicas on a Redis at `url`, under a prefix of their own. */
export async function createReplicas(t: Test, url: string): Promise<TestReplicas> {
  const prefix = randomBytes(4).toString('hex');
  const clock = manualClock();
  const redis = new Redis(url);
  t.teardown(() => redis.disconnect());
  const handlers = new Map<string, Map<string, (from: string, body: unknown) => void>>();
  const messages: Message[] = [];
  const deaf = new Map<string, () => boolean>();
  let active = 0;
  let count = 0;
  const key = (...names: string[]) => [prefix, ...names].join(':');
  const streamKey = (kind: string, id: string) => key(kind, `{${id}}`);
  const leaseKey = (id: string) => key('{replica}', id);

  const deliver = (message: Message) => {
    messages.push(message);
    if (replicas.isLost(message) || deaf.get(message.to)?.()) return;
    active += 1;
    setImmediate(() => {
      active -= 1;
      handlers.get(message.to)?.get(message.kind)?.(message.from, message.body);
    });
  };

  const add = async (settings: Partial<RedisStoreOptions> = {}): Promise<TestReplica> => {
    count += 1;
    const id = `r${count}`;
    const own = new Map<string, (from: string, body: unknown) => void>();
    const availableListeners: (() => void)[] = [];
    const subscribedListeners: (() => void)[] = [];
    const missingListeners: (() => void)[] = [];
    const unavailableListeners: (() => void)[] = [];
    const nodeListeners: (() => void)[] = [];
    const renewedListeners: (() => void)[] = [];
    const deafListeners: (() => void)[] = [];
    handlers.set(id, own);
    const lease = { isHeld: true, renewedForMs: 60_000 };
    const recorded = new Proxy(redis, {
      get: (target, name) => {
        const value = Reflect.get(target, name);
        if (typeof value !== 'function') return value;
        return async (...args: unknown[]) => {
          replica.sent.push(String(name));
          replica.onCommand(String(name));
          return value.apply(target, args);
        };
      },
    });
    const run = async <T>(call: (client: Redis) => Promise<T>): Promise<T> => {
      active += 1;
      try {
        while (replica.delay) await replica.delay;
        if (!replica.isConnected) throw new RedisUnavailable('not connected');
        return await call(recorded);
      } finally {
        active -= 1;
      }
    };
    const cluster: Cluster = {
      replica: id,
      key,
      streamKey,
      leaseKey,
      connection: {
        get isAvailable() {
          return replica.isConnected && !replica.cannotHear;
        },
        get isConnected() {
          return replica.isConnected;
        },
        run,
        query: run,
        read: (_key, call) => run(call),
        together: (send) => send(),
        onAvailable: (listener) => void availableListeners.push(listener),
        onUnavailable: (listener) => void unavailableListeners.push(listener),
        onNodesChanged: (listener) => void nodeListeners.push(listener),
        async connect() {},
        close() {},
      },
      mailbox: {
        get subscribedForMs() {
          return replica.subscribedForMs;
        },
        on: (kind, handler) => void own.set(kind, handler),
        send(to, kind, body) {
          if (replica.isConnected) deliver({ from: id, to, kind, body: JSON.parse(JSON.stringify(body)) });
        },
        onSubscribed: (listener) => void subscribedListeners.push(listener),
        onDeaf: (listener) => void deafListeners.push(listener),
        close() {},
      },
      lease: {
        get isHeld() {
          return lease.isHeld;
        },
        get renewedForMs() {
          return lease.renewedForMs;
        },
        onMissing: (listener) => void missingListeners.push(listener),
        onRenewed: (listener) => void renewedListeners.push(listener),
        renew() {},
        async close() {},
      },
    };
    deaf.set(id, () => replica.cannotHear);
    await redis.set(cluster.leaseKey(id), '1');
    const metrics = {
      streamsUnsynced: {
        inc() {
          replica.unsynced += 1;
        },
      },
    } as unknown as Metrics;
    const options: RedisStoreOptions = {
      clock,
      cluster,
      metrics,
      highWaterMark: 16_384,
      flushMs: 0,
      ttlMs: 300_000,
      maxTotalBytes: 1e8,
      maxLogMs: () => 600_000,
      onEvicted() {
        replica.evicted += 1;
      },
      ...settings,
    };
    const replica: TestReplica = {
      id,
      store: new RedisStore(options),
      commands: new StreamCommands({
        cluster,
        ttlMs: options.ttlMs,
        maxLogMs: options.maxLogMs,
        format: options.format,
      }),
      lease,
      subscribedForMs: 60_000,
      isConnected: true,
      cannotHear: false,
      delay: undefined,
      onCommand() {},
      unsynced: 0,
      evicted: 0,
      sent: [],
      reconnect() {
        replica.isConnected = true;
        for (const listener of availableListeners) listener();
      },
      resubscribe() {
        const wasDeaf = replica.cannotHear;
        replica.cannotHear = false;
        for (const listener of [...subscribedListeners, ...(wasDeaf ? availableListeners : [])]) listener();
      },
      loseSubscription() {
        replica.cannotHear = true;
        for (const listener of [...deafListeners, ...unavailableListeners]) listener();
      },
      renewLease() {
        for (const listener of renewedListeners) listener();
      },
      changeNodes() {
        for (const listener of nodeListeners) listener();
      },
      missLease() {
        for (const listener of missingListeners) listener();
      },
      async die() {
        replica.isConnected = false;
        handlers.delete(id);
        await Promise.all([redis.del(cluster.leaseKey(id)), replica.store.close()]);
      },
    };
    t.teardown(async () => {
      replica.isConnected = false;
      await replica.store.close();
    });
    return replica;
  };

  const settle = async () => {
    for (let quiet = 0, left = MAX_TURNS; quiet < QUIET_TURNS; quiet = active === 0 ? quiet + 1 : 0, left--) {
      if (left === 0) throw new Error(`commands and messages are still on their way after ${MAX_TURNS} turns`);
      await turn();
    }
  };

  const replicas: TestReplicas = {
    clock,
    redis,
    messages,
    send: deliver,
    isLost: () => false,
    add,
    settle,
    async advance(ms, stepMs = STEP_MS) {
      await settle();
      for (let left = ms; left > 0; left -= stepMs) {
        clock.advance(Math.min(left, stepMs));
        await settle();
      }
    },
    key,
    streamKey,
    leaseKey,
  };
  return replicas;
}

/** Everything that a reader has received until now. */
export interface Received {
  text: string;
  /** Number of slices that brought text. */
  slices: number;
  last: Slice | undefined;
  /** Position after the last part. */
  position: number;
  close(): void;
}

/** Attaches a reader that reads all the time. */
export async function follow(log: ReadableLog | undefined, position = 0): Promise<Received> {
  if (log === undefined) throw new Error('no such log');
  return followReader(await log.read(position), position);
}

/** Reads all the time until the terminal. */
export function followReader(reader: LogReader, position = 0): Received {
  const received: Received = { text: '', slices: 0, last: undefined, position, close: () => reader.close() };
  const read = async () => {
    for (;;) {
      const slice = await reader.next();
      for (const { part, position: end } of slice.parts) {
        received.text += part.type === 'tool_call' ? part.arguments : part.text;
        received.position = end;
      }
      if (slice.parts.length > 0) received.slices += 1;
      if (slice.terminal === undefined) continue;
      received.last = slice;
      reader.close();
      return;
    }
  };
  void read();
  return received;
}
