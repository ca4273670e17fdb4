import type { Redis } from 'ioredis';
import type { Clock } from '../clock.ts';
import type { RedisConnection } from './connection.ts';

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
  /** Sends a message. Drops it without an error while Redis is unavailable. `body` must be serializable as JSON. */
  send(to: string, kind: string, body: unknown): void;
  /** Calls the listener after each new subscription. Messages may have been lost before. */
  onSubscribed(listener: () => void): void;
  close(): void;
}

export interface MailboxOptions {
  /** A separate connection, because a subscribed connection takes no other commands. */
  readonly subscriber: Redis;
  readonly connection: RedisConnection;
  readonly clock: Clock;
  /** Id of this replica. */
  readonly replica: string;
  /** Returns the channel of a replica's mailbox. */
  channelOf(replica: string): string;
}

/**
 * Time between two checks of the subscription, and the time limit of a check. A subscribed connection
 * sends nothing by itself; repeating SUBSCRIBE shows whether it still works and changes nothing else.
 */
const CHECK_MS = 2_000;

export function createMailbox({ subscriber, connection, clock, replica, channelOf }: MailboxOptions): Mailbox {
  const handlers = new Map<string, (from: string, body: unknown) => void>();
  const listeners: (() => void)[] = [];
  let hasAnswered = true;
  let subscribedAt: number | undefined;
  let cancelCheck = clock.after(CHECK_MS, check);

  function check(): void {
    cancelCheck = clock.after(CHECK_MS, check);
    if (subscriber.status !== 'ready') return;
    if (!hasAnswered) subscriber.disconnect(true); // `true`: reconnects.
    hasAnswered = false;
    void subscribe();
  }

  async function subscribe(): Promise<boolean> {
    try {
      await subscriber.subscribe(channelOf(replica));
      hasAnswered = true;
      subscribedAt ??= clock.now();
      return true;
    } catch {
      return false; // The client reconnects by itself.
    }
  }

  subscriber.on('error', () => {}); // 'close' follows.
  subscriber.on('close', () => {
    subscribedAt = undefined;
  });
  subscriber.on('ready', async () => {
    hasAnswered = true;
    if (await subscribe()) for (const listener of listeners) listener();
  });
  subscriber.on('message', (_channel: string, text: string) => {
    const message = parseMessage(text);
    if (message) handlers.get(message[0])?.(message[1], message[2]);
  });
  void subscriber.connect().catch(() => {});

  return {
    get subscribedForMs() {
      return subscribedAt === undefined || !hasAnswered ? 0 : clock.now() - subscribedAt;
    },
    on: (kind, handler) => void handlers.set(kind, handler),
    send(to, kind, body) {
      const message = JSON.stringify([kind, replica, body]);
      if (connection.isAvailable) connection.run((redis) => redis.publish(channelOf(to), message)).catch(() => {});
    },
    onSubscribed: (listener) => void listeners.push(listener),
    close() {
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
