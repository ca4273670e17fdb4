import type { Clock } from '../clock.ts';
import type { RedisConnection } from './connection.ts';
import { missingRight, type Problem, problem, reasonOf } from './problems.ts';
import { isReplyError } from './reply-error.ts';
import type { Subscriber } from './subscriber.ts';

/**
 * Messages between replicas over Pub/Sub. Each replica has one mailbox. A message may be lost, so
 * senders repeat what matters.
 */
export interface Mailbox {
  /**
   * Milliseconds since the last new subscription, as far as is known; 0 if messages do not arrive now. While
   * this is short, messages of other replicas may have been lost.
   */
  readonly subscribedForMs: number;
  /** Handles messages of one kind. */
  on(kind: string, handler: (from: string, body: unknown) => void): void;
  /** Sends a message. Drops it without an error while Redis is not connected. `body` must be serializable as JSON. */
  send(to: string, kind: string, body: unknown): void;
  /** Calls the listener after each new subscription. Messages may have been lost before. */
  onSubscribed(listener: () => void): void;
  /** Calls the listener when messages of other replicas do not arrive any more. */
  onDeaf(listener: () => void): void;
  close(): void;
}

export interface MailboxOptions {
  /** A separate connection, because a subscribed connection takes no other commands. */
  readonly subscriber: Subscriber;
  /** True in a cluster: only the nodes that have the slot of a channel then see its messages. */
  readonly isSharded?: boolean;
  readonly connection: Pick<RedisConnection, 'isConnected' | 'query'>;
  readonly clock: Clock;
  /** Id of this replica. */
  readonly replica: string;
  /** Returns the channel of a replica's mailbox. */
  channelOf(replica: string): string;
  /** Prefix of all channels, for the log. */
  readonly prefix: string;
  /** Reports why messages do not arrive; undefined when they do. */
  report(problem: Problem | undefined): void;
}

/**
 * Time between two checks of the subscription, and the time limit of a check. A subscribed connection
 * sends nothing by itself; repeating SUBSCRIBE shows whether it still works and changes nothing else. In a cluster, a
 * message of the replica to itself shows that messages arrive.
 */
const CHECK_MS = 2_000;
/** Longest time between two attempts to subscribe while Redis refuses. */
const MAX_CHECK_MS = 10_000;
/** A lost connection that is subscribed again within this time is no problem. */
const RESUBSCRIBE_MS = 1_000;
/** Kind of a message of a replica to itself. */
const ECHO = 'echo';

export function createMailbox(options: MailboxOptions): Mailbox {
  const { subscriber, isSharded = false, connection, clock, replica, channelOf, prefix, report } = options;
  const handlers = new Map<string, (from: string, body: unknown) => void>();
  const subscribedListeners: (() => void)[] = [];
  const deafListeners: (() => void)[] = [];
  let hasAnswered = true;
  /** Number of the last message to this replica itself; it is raised when its subscription ends. */
  let echo = 0;
  let arrivedEcho = 0;
  /** A message to this replica itself was published and has not arrived. */
  let isEchoMissing = false;
  let subscribedAt: number | undefined;
  /** Refused attempts in a row. */
  let refusals = 0;
  let lastError: Problem | undefined;
  let cancelReport: (() => void) | undefined;
  let cancelCheck = clock.after(CHECK_MS, check);

  function check(): void {
    cancelCheck();
    cancelCheck = clock.after(Math.min(MAX_CHECK_MS, CHECK_MS * 2 ** refusals), check);
    if (subscriber.status !== 'ready') return;
    if (!hasAnswered || isEchoMissing) {
      lastError = problem('timeout');
      subscriber.disconnect(true); // `true`: reconnects.
    }
    hasAnswered = false;
    void subscribe();
    if (isSharded && subscribedAt !== undefined) void sendEcho();
  }

  /** A node of a cluster that is cut off, and does not know yet, still accepts subscriptions. */
  async function sendEcho(): Promise<void> {
    echo += 1;
    const sent = echo;
    const message = JSON.stringify([ECHO, replica, sent]);
    try {
      await connection.query((redis) => redis.spublish(channelOf(replica), message));
      if (sent === echo) isEchoMissing = arrivedEcho !== sent;
    } catch {
      // It says nothing about the subscription.
    }
  }

  function forgetEcho(): void {
    echo += 1;
    isEchoMissing = false;
  }

  function reportDeaf(reason: Problem): void {
    cancelReport?.();
    cancelReport = undefined;
    report(reason);
    for (const listener of deafListeners) listener();
  }

  async function subscribe(): Promise<void> {
    try {
      await subscriber.subscribe(channelOf(replica));
    } catch (error) {
      if (isReplyError(error)) onRefused(error);
      return; // Without a reply, the client reconnects by itself.
    }
    hasAnswered = true;
    refusals = 0;
    lastError = undefined;
    cancelReport?.();
    cancelReport = undefined;
    if (subscribedAt !== undefined) return;
    subscribedAt = clock.now();
    report(undefined);
    for (const listener of subscribedListeners) listener();
  }

  function onRefused(error: Error): void {
    const reason = reasonOf(error);
    hasAnswered = true;
    subscribedAt = undefined;
    refusals += 1;
    reportDeaf(
      problem(
        reason,
        reason === 'NOPERM' ? [missingRight(isSharded ? 'ssubscribe' : 'subscribe', error, prefix)] : undefined,
      ),
    );
  }

  subscriber.on('error', (error: Error) => {
    lastError ??= problem(reasonOf(error));
  });
  subscriber.on('close', () => {
    subscribedAt = undefined;
    forgetEcho();
    cancelReport ??= clock.after(RESUBSCRIBE_MS, () => reportDeaf(lastError ?? problem('closed')));
  });
  subscriber.on('ready', () => {
    hasAnswered = true;
    subscribedAt = undefined;
    void subscribe();
  });
  subscriber.on('message', (_channel: string, text: string) => {
    const message = parseMessage(text);
    if (message?.[0] === ECHO && message[1] === replica) {
      arrivedEcho = Number(message[2]);
      if (arrivedEcho === echo) isEchoMissing = false;
    } else if (message) handlers.get(message[0])?.(message[1], message[2]);
  });
  void subscriber.connect().catch(() => {});

  return {
    get subscribedForMs() {
      return subscribedAt === undefined || !hasAnswered || isEchoMissing ? 0 : clock.now() - subscribedAt;
    },
    on: (kind, handler) => void handlers.set(kind, handler),
    send(to, kind, body) {
      const message = JSON.stringify([kind, replica, body]);
      if (!connection.isConnected) return;
      const channel = channelOf(to);
      connection
        .query((redis) => (isSharded ? redis.spublish(channel, message) : redis.publish(channel, message)))
        .catch(() => {});
    },
    onSubscribed: (listener) => void subscribedListeners.push(listener),
    onDeaf: (listener) => void deafListeners.push(listener),
    close() {
      subscriber.removeAllListeners('close');
      cancelReport?.();
      cancelCheck();
      subscriber.disconnect();
    },
  };
}

/** Returns undefined for text that no replica has sent. */
function parseMessage(text: string): [kind: string, from: string, body: unknown] | undefined {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
