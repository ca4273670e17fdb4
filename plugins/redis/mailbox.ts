import type { Redis } from 'ioredis';
import type { Clock } from '../clock.ts';
import type { RedisConnection } from './connection.ts';

/**
 * Messages between replicas, each to the inbox of one. They may be lost, so that nothing may depend
 * on one alone: whoever sends says it again.
 */
export interface Mailbox {
  on(kind: string, handler: (from: string, body: unknown) => void): void;
  send(to: string, kind: string, body: unknown): void;
  /** Calls the listener each time that the inbox is open again: messages may have been lost before. */
  onSubscribed(listener: () => void): void;
  close(): void;
}

/**
 * How often the connection is tried, which sends nothing by itself, and how long its answer may take.
 * The subscription is said again, which changes nothing where it is there.
 */
const CHECK_MS = 2_000;

export function createMailbox(
  { subscriber, link, clock }: { subscriber: Redis; link: RedisConnection; clock: Clock },
  own: string,
  channelOf: (replica: string) => string,
): Mailbox {
  const handlers = new Map<string, (from: string, body: unknown) => void>();
  const listeners: (() => void)[] = [];
  let answered = true;
  let cancel = clock.after(CHECK_MS, check);

  function check(): void {
    cancel = clock.after(CHECK_MS, check);
    if (subscriber.status !== 'ready') return;
    if (!answered) subscriber.disconnect(true);
    answered = false;
    void subscribe();
  }

  async function subscribe(): Promise<boolean> {
    try {
      await subscriber.subscribe(channelOf(own));
      answered = true;
      return true;
    } catch {
      return false; // It reconnects by itself.
    }
  }

  subscriber.on('error', () => {}); // 'close' follows
  subscriber.on('ready', async () => {
    answered = true;
    if (await subscribe()) for (const listener of listeners) listener();
  });
  subscriber.on('message', (_channel: string, text: string) => {
    const message = parseMessage(text);
    if (message) handlers.get(message[0])?.(message[1], message[2]);
  });
  void subscriber.connect().catch(() => {});

  return {
    on: (kind, handler) => void handlers.set(kind, handler),
    send(to, kind, body) {
      const message = JSON.stringify([kind, own, body]);
      if (link.isAvailable) link.run((redis) => redis.publish(channelOf(to), message)).catch(() => {});
    },
    onSubscribed: (listener) => void listeners.push(listener),
    close() {
      cancel();
      subscriber.disconnect();
    },
  };
}

/** Undefined for what no replica has sent. */
function parseMessage(text: string): [kind: string, from: string, body: unknown] | undefined {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
