import type { LookupFunction } from 'node:net';
import fp from 'fastify-plugin';
import { chooseProxy } from '../../providers/proxy.ts';
import type { Config } from '../config/index.ts';
import { createDelivery, type Delivery } from './delivery.ts';
import { type EndedResponse, encodeEvent } from './event.ts';
import { createMemoryQueue } from './memory-queue.ts';
import { createRedisQueue } from './redis-queue.ts';

declare module 'fastify' {
  interface FastifyInstance {
    /** Undefined if no webhook is configured. */
    readonly webhooks: Webhooks | undefined;
  }
}

/** Delivers the ends of background answers to the configured URL. */
export interface Webhooks {
  /** Milliseconds for which an event has to be kept. */
  readonly keepMs: number;
  /** Returns the event that is delivered, as JSON. */
  encode(ended: EndedResponse): string;
  /** The end of a stream will be delivered. Never throws. */
  expect(id: string): void;
  /**
   * Delivers the event of a stream. Call once, when it has ended. Never throws.
   * @param text the event; absent if the script that ended the stream has written it to Redis
   */
  add(id: string, text?: string): void;
}

export interface WebhooksOptions {
  readonly settings: Config['responses']['webhook'];
  /** Proxies of the service. */
  readonly proxy?: Config['proxy'];
  /** Resolves host names; for tests. */
  readonly lookup?: LookupFunction | undefined;
}

/** Time after the last attempt for which an event is kept: an attempt may run. */
const SPARE_MS = 120_000;
/** Time after an attempt must have ended until another replica may begin one. */
const CLAIM_SPARE_MS = 10_000;

/** Adds `fastify.webhooks`. */
export default fp<WebhooksOptions>(
  async (fastify, { settings, proxy, lookup }) => {
    if (settings === undefined) {
      fastify.decorate('webhooks', undefined);
      return;
    }
    const { clock, cluster, metrics, log } = fastify;
    const { url, secrets, allowPrivate, timeoutMs, retryMs } = settings;
    const keepMs = retryMs + SPARE_MS;
    // An alert sees only counters that it has seen before.
    for (const outcome of ['delivered', 'retry', 'failed', 'dropped']) metrics.webhooks.inc({ outcome }, 0);
    let delivery: Delivery | undefined;
    const onDue = () => delivery?.run();
    const onDropped = () => metrics.webhooks.inc({ outcome: 'dropped' });
    const queue = cluster
      ? createRedisQueue({ cluster, claimMs: timeoutMs + CLAIM_SPARE_MS, keepMs, onDue })
      : createMemoryQueue({ clock, onDue, onDropped });
    const proxyUrl = chooseProxy(url, settings.proxy, proxy);
    const endpoint = { url, allowPrivate, proxyUrl, lookup };
    delivery = createDelivery({ endpoint, secrets, timeoutMs, retryMs, queue, clock, metrics, log });
    fastify.addHook('onClose', () => delivery?.close());
    const webhooks: Webhooks = {
      keepMs,
      encode: encodeEvent,
      expect: (id) => queue.expect(id),
      add: (id, text) => queue.add(id, text),
    };
    fastify.decorate('webhooks', webhooks);
  },
  { name: 'webhooks', dependencies: ['clock', 'metrics', 'redis'] },
);
