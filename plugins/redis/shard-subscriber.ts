import { EventEmitter } from 'node:events';
import type { Redis } from 'ioredis';
import type { Clock } from '../clock.ts';
import type { RedisNode } from '../config/redis-url.ts';
import { isReplyError } from './reply-error.ts';
import type { Subscriber } from './subscriber.ts';

export interface ShardSubscriberOptions {
  readonly clock: Clock;
  /** Returns the nodes to ask, those first that are known to be primaries. */
  nodes(): RedisNode[];
  /** Creates a client of one node, which does not connect again by itself. */
  connect(node: RedisNode): Redis;
}

const MIN_PAUSE_MS = 50;
const MAX_PAUSE_MS = 1_000;
/** Redirections without a subscription that are followed at once. More mean that the nodes disagree. */
const MAX_QUICK_REDIRECTIONS = 2;

/**
 * Receives the messages of one channel in a cluster. It is connected to the node that has the slot of the channel. Any
 * other node names that node; a node that loses the slot ends the subscription, and a node that dies the connection. A
 * node that knows of no working cluster is left for the next one.
 */
export class ShardSubscriber extends EventEmitter implements Subscriber {
  readonly #options: ShardSubscriberOptions;
  #redis: Redis | undefined;
  /** Node that has the slot, as the last redirection has said. */
  #owner: RedisNode | undefined;
  /** Attempts in a row without a subscription. */
  #attempts = 0;
  /** Redirections in a row without a subscription. */
  #redirections = 0;
  /** Number of the node to ask next, also after a subscription: that one may have been cut off from the others. */
  #next = 0;
  #isClosed = false;
  #isSubscribing = false;
  #cancelReconnect = () => {};

  constructor(options: ShardSubscriberOptions) {
    super();
    this.#options = options;
  }

  get status(): string {
    return this.#redis?.status ?? 'wait';
  }

  async connect(): Promise<void> {
    this.#open();
  }

  disconnect(isReconnecting = false): void {
    this.#isClosed = !isReconnecting;
    this.#cancelReconnect();
    this.#redis?.disconnect();
  }

  async subscribe(channel: string): Promise<void> {
    const redis = this.#redis;
    if (redis === undefined) throw new Error('not connected');
    this.#isSubscribing = true;
    try {
      await redis.ssubscribe(channel);
      this.#attempts = 0;
      this.#redirections = 0;
    } catch (error) {
      const owner = ownerOf(error as Error);
      const isDown = isReplyError(error) && /^CLUSTERDOWN/.test(error.message);
      if (owner === undefined && !isDown) throw error;
      // Another node may know more than one that is cut off.
      if (isDown) this.emit('error', error);
      this.#owner = owner;
      if (owner !== undefined) this.#redirections += 1;
      redis.disconnect();
      throw new Error(isDown ? 'the node has no cluster' : 'another node has the channel');
    } finally {
      this.#isSubscribing = false;
    }
  }

  #open(): void {
    this.#cancelReconnect();
    if (this.#isClosed) return;
    const nodes = this.#options.nodes();
    const node = this.#owner ?? nodes[this.#next++ % Math.max(1, nodes.length)];
    this.#owner = undefined;
    this.#attempts += 1;
    if (node === undefined) {
      this.#reopen();
      return;
    }
    const redis = this.#options.connect(node);
    this.#redis = redis;
    redis.on('error', (error) => this.emit('error', error));
    redis.on('ready', () => this.emit('ready'));
    redis.on('smessage', (channel: string, text: string) => this.emit('message', channel, text));
    // The slot has moved to another node, which any node can name.
    redis.on('moved', () => {
      if (!this.#isSubscribing) redis.disconnect();
    });
    redis.once('end', () => {
      this.emit('close');
      this.#reopen();
    });
    redis.connect().catch(() => {}); // `end` follows.
  }

  #reopen(): void {
    const isRedirected = this.#owner !== undefined && this.#redirections <= MAX_QUICK_REDIRECTIONS;
    const pauseMs =
      isRedirected || this.#attempts === 0
        ? 0
        : Math.min(MAX_PAUSE_MS, MIN_PAUSE_MS * 2 ** Math.min(this.#attempts, 10));
    this.#cancelReconnect();
    if (!this.#isClosed) this.#cancelReconnect = this.#options.clock.after(pauseMs, () => this.#open());
  }
}

/** Returns the node that a redirection names. */
function ownerOf({ message }: Error): RedisNode | undefined {
  const [, host, port] = /^MOVED \d+ (.+):(\d+)$/.exec(message) ?? [];
  return host === undefined ? undefined : { host, port: Number(port) };
}
