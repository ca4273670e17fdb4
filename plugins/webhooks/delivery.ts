import type { FastifyBaseLogger } from 'fastify';
import { type Clock, waitAtMost } from '../clock.ts';
import type { Metrics } from '../metrics/index.ts';
import { eventId } from './event.ts';
import { type PostOptions, post, type Reply } from './post.ts';
import type { ClaimedWebhook, WebhookQueue } from './queue.ts';
import { signedHeaders } from './signature.ts';

export interface DeliveryOptions {
  readonly endpoint: Omit<PostOptions, 'headers' | 'body'>;
  readonly secrets: readonly string[];
  /** Time limit of one attempt. */
  readonly timeoutMs: number;
  /** Time after the end of an answer in which a webhook is repeated. */
  readonly retryMs: number;
  readonly queue: WebhookQueue;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: FastifyBaseLogger;
}

export interface Delivery {
  /** Delivers what is due. Never throws. */
  run(): void;
  /** Waits for running attempts, and tries once what would be lost; at most `CLOSE_MS`. Then aborts the rest. */
  close(): Promise<void>;
}

/** Attempts at the same time. */
const MAX_ATTEMPTS = 8;
/** Time between two looks into a queue that other replicas fill, too. */
const POLL_MS = 1_000;
/** Shortest and longest time between two attempts. In between it is the age of the webhook, so that it doubles. */
const MIN_RETRY_MS = 5_000;
const MAX_RETRY_MS = 3_600_000;
const CLOSE_MS = 5_000;

/** Returns the milliseconds until the next attempt. @param random from 0 to 1 */
export function retryDelayMs(ageMs: number, retryAfterMs = 0, random = Math.random()): number {
  const delayMs = Math.min(MAX_RETRY_MS, Math.max(MIN_RETRY_MS, ageMs));
  return Math.max(delayMs * (0.75 + random / 2), Math.min(MAX_RETRY_MS, retryAfterMs));
}

export function createDelivery(options: DeliveryOptions): Delivery {
  const { endpoint, secrets, timeoutMs, retryMs, queue, clock, metrics, log } = options;
  const aborted = new AbortController();
  const running = new Set<Promise<void>>();
  let isFailing = false;
  let claiming: Promise<void> | undefined;
  let isClosing = false;
  let cancelPoll = () => {};

  const onDelivered = async ({ id }: ClaimedWebhook) => {
    metrics.webhooks.inc({ outcome: 'delivered' });
    if (isFailing) log.info('webhooks are delivered again');
    isFailing = false;
    await queue.remove(id);
  };

  /** @param reason a status or a code word, never the text of an error */
  const onFailed = async ({ id, ageMs }: ClaimedWebhook, reason: string | number, retryAfterMs?: number) => {
    const delayMs = retryDelayMs(ageMs, retryAfterMs);
    // The receiver says that it wants no more; a later configuration may name another.
    if (reason === 410 || ageMs + delayMs > retryMs) {
      metrics.webhooks.inc({ outcome: 'failed' });
      log.error({ stream: id, reason, ageMs: Math.round(ageMs) }, 'webhook given up; the receiver will not get it');
      await queue.remove(id);
      return;
    }
    metrics.webhooks.inc({ outcome: 'retry' });
    if (!isFailing) log.warn({ stream: id, reason }, 'webhook not delivered; it will be repeated');
    isFailing = true;
    await queue.postpone(id, delayMs);
  };

  const attempt = async (webhook: ClaimedWebhook): Promise<void> => {
    const { id, text: body } = webhook;
    const headers = signedHeaders({ id: eventId(id), body }, secrets, Date.now());
    let reply: Reply | undefined;
    try {
      reply = await within(timeoutMs, (signal) => post({ ...endpoint, headers, body }, signal));
    } catch (error) {
      if (aborted.signal.aborted) return void (await queue.postpone(id, 0));
      return onFailed(webhook, reasonOf(error));
    }
    if (reply.status >= 200 && reply.status < 300) return onDelivered(webhook);
    return onFailed(webhook, reply.status, reply.retryAfterMs);
  };

  /** Runs a call whose signal aborts after `ms` milliseconds, or when the process ends. */
  const within = async <T>(ms: number, call: (signal: AbortSignal) => Promise<T>): Promise<T> => {
    const timeout = new AbortController();
    const cancel = clock.after(ms, () => timeout.abort());
    try {
      return await call(AbortSignal.any([timeout.signal, aborted.signal]));
    } finally {
      cancel();
    }
  };

  const canStart = () => !(isClosing && queue.isDurable) && running.size < MAX_ATTEMPTS && !aborted.signal.aborted;

  /** Claims until all attempts run or nothing is due. */
  const claimAll = async () => {
    try {
      while (canStart()) {
        const claimed = await queue.claim(MAX_ATTEMPTS - running.size);
        if (claimed.length === 0) break;
        for (const webhook of claimed) start(webhook);
      }
    } catch {
      // Redis is unavailable. The next look finds them.
    }
    claiming = undefined;
  };

  const start = (webhook: ClaimedWebhook) => {
    const ended = attempt(webhook)
      .catch((error: unknown) => log.error({ err: error }, 'delivery of a webhook failed'))
      .finally(() => {
        running.delete(ended);
        run();
      });
    running.add(ended);
  };

  /** Claims for free attempts. Each attempt that ends calls it again, so that a long queue keeps all of them busy. */
  function run(): void {
    if (canStart()) claiming ??= claimAll();
  }

  const poll = () => {
    run();
    cancelPoll = clock.after(POLL_MS, poll);
  };
  if (queue.isDurable) poll();

  return {
    run,
    async close() {
      isClosing = true;
      cancelPoll();
      queue.hurry();
      await waitAtMost(clock, CLOSE_MS, untilIdle());
      aborted.abort();
      await Promise.all(running);
      const lost = queue.close();
      if (lost === 0) return;
      metrics.webhooks.inc({ outcome: 'dropped' }, lost);
      log.error({ webhooks: lost }, 'webhooks lost at the end of the process; with Redis they would outlive it');
    },
  };

  /** Claims and waits until nothing is due and no attempt runs. */
  async function untilIdle(): Promise<void> {
    do {
      run();
      await claiming;
      await Promise.all(running);
    } while (running.size > 0 || claiming !== undefined);
  }
}

/** Returns a code word for a failed attempt. */
function reasonOf(error: unknown): string {
  const { code, name, reason } = error as { code?: unknown; name?: unknown; reason?: unknown };
  if (reason === 'forbidden_address') return 'forbidden_address';
  if (name === 'AbortError') return 'timeout';
  return typeof code === 'string' ? code : 'failed';
}
