/** The interface of a queue of webhooks that wait to be delivered. */

/** A webhook that this process delivers now, and no other does. */
export interface ClaimedWebhook {
  /** Id of the stream. */
  readonly id: string;
  /** The event as JSON. */
  readonly text: string;
  /** Milliseconds since the answer ended. */
  readonly ageMs: number;
}

/** No method waits longer than Redis may take for a few commands. Those that may fail say so. */
export interface WebhookQueue {
  /** A webhook will be added. It is not lost if this process dies before it can say so. Never throws. */
  expect(id: string): void;
  /**
   * Adds a webhook. Never throws.
   * @param text the event; absent if it is in Redis already
   */
  add(id: string, text?: string): void;
  /**
   * Claims at most `count` webhooks that are due. There may be more behind fewer; none means that nothing is due, or
   * that the queue has looked at as much as it does at a time.
   * @throws if the queue is unavailable
   */
  claim(count: number): Promise<ClaimedWebhook[]>;
  /** Removes a claimed webhook: it was delivered, or is given up. Never rejects. */
  remove(id: string): Promise<void>;
  /** Releases a claimed webhook; it is due again after `ms` milliseconds. Never rejects. */
  postpone(id: string, ms: number): Promise<void>;
  /** Ends the process's use. Returns the number of webhooks that are lost. */
  close(): number;
  /** True if webhooks outlive this process. */
  readonly isDurable: boolean;
  /** Makes all webhooks due now, for a last attempt before they are lost. Without effect in a durable queue. */
  hurry(): void;
}
