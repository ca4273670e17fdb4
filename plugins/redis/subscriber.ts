import type { EventEmitter } from 'node:events';

/**
 * A connection for messages. Emits `ready` when it can subscribe, `close` when it is lost, `error`, and `message` with
 * a channel and a text. Connects again by itself.
 */
export interface Subscriber extends EventEmitter {
  readonly status: string;
  connect(): Promise<void>;
  /** @param isReconnecting true to connect again */
  disconnect(isReconnecting?: boolean): void;
  /** @throws ReplyError if Redis refuses */
  subscribe(channel: string): Promise<unknown>;
}
