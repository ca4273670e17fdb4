import type { Clock } from '../clock.ts';
import type { ClaimedWebhook, WebhookQueue } from './queue.ts';

export interface MemoryQueueOptions {
  readonly clock: Clock;
  /** Called when a webhook is due and may be claimed. */
  onDue(): void;
  /** Called for a webhook that is removed because too many wait. */
  onDropped(): void;
}

interface Waiting {
  readonly text: string;
  readonly addedAt: number;
  dueAt: number;
  isClaimed: boolean;
}

/** Most webhooks that wait. The oldest are dropped. */
const MAX_WAITING = 10_000;

/** Webhooks of a single process, in memory. */
export function createMemoryQueue({ clock, onDue, onDropped }: MemoryQueueOptions): WebhookQueue {
  const waiting = new Map<string, Waiting>();
  let cancelTimer = () => {};
  let isClosed = false;

  /** Sets the one timer for the webhook that is due first. */
  const schedule = () => {
    cancelTimer();
    let first = Number.POSITIVE_INFINITY;
    for (const { dueAt, isClaimed } of waiting.values()) if (!isClaimed) first = Math.min(first, dueAt);
    if (isClosed || first === Number.POSITIVE_INFINITY) return;
    cancelTimer = clock.after(Math.max(0, first - clock.now()), onDue);
  };

  return {
    isDurable: false,
    expect() {},
    add(id, text = '') {
      const now = clock.now();
      waiting.set(id, { text, addedAt: now, dueAt: now, isClaimed: false });
      const [oldest] = waiting.keys();
      if (waiting.size > MAX_WAITING && oldest !== undefined) {
        waiting.delete(oldest);
        onDropped();
      }
      schedule();
    },
    async claim(count) {
      const now = clock.now();
      const claimed: ClaimedWebhook[] = [];
      for (const [id, one] of waiting) {
        if (claimed.length === count) break;
        if (one.isClaimed || one.dueAt > now) continue;
        one.isClaimed = true;
        claimed.push({ id, text: one.text, ageMs: now - one.addedAt });
      }
      // With a full claim, the caller claims again.
      if (claimed.length < count) schedule();
      return claimed;
    },
    async remove(id) {
      waiting.delete(id);
    },
    async postpone(id, ms) {
      const one = waiting.get(id);
      if (one === undefined) return;
      Object.assign(one, { dueAt: clock.now() + ms, isClaimed: false });
      schedule();
    },
    hurry() {
      for (const one of waiting.values()) one.dueAt = clock.now();
    },
    close() {
      isClosed = true;
      cancelTimer();
      return waiting.size;
    },
  };
}
