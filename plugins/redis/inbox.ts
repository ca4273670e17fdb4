import type { Redis } from 'ioredis';
import type { Link } from './link.ts';

/**
 * Messages between replicas, each to the inbox of one. They may be lost, so that nothing may depend
 * on one alone: whoever sends says it again.
 */
export interface Inbox {
  on(kind: string, handler: (from: string, body: unknown) => void): void;
  send(to: string, kind: string, body: unknown): void;
  /** Calls the listener each time that the inbox is open again: messages may have been lost before. */
  onOpen(listener: () => void): void;
  close(): void;
}

export function createInbox(subscriber: Redis, link: Link, own: string, channelOf: (replica: string) => string): Inbox {
  const handlers = new Map<string, (from: string, body: unknown) => void>();
  const listeners: (() => void)[] = [];

  subscriber.on('error', () => {}); // It reconnects by itself.
  subscriber.on('ready', () => {
    void subscriber.subscribe(channelOf(own)).then(
      () => {
        for (const listener of listeners) listener();
      },
      () => {},
    );
  });
  subscriber.on('message', (_channel: string, text: string) => {
    const [kind, from, body] = JSON.parse(text) as [string, string, unknown];
    handlers.get(kind)?.(from, body);
  });
  void subscriber.connect().catch(() => {});

  return {
    on: (kind, handler) => void handlers.set(kind, handler),
    send(to, kind, body) {
      const message = JSON.stringify([kind, own, body]);
      if (link.up) link.ask((redis) => redis.publish(channelOf(to), message)).catch(() => {});
    },
    onOpen: (listener) => void listeners.push(listener),
    close: () => subscriber.disconnect(),
  };
}
