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
  let wakeAt = Number.POSITIVE_INFINITY;
  let isClosed = false;

  /** Sets the one timer to the earlier of its time and `dueAt`. */
  const wake = (dueAt: number) => {
    if (isClosed || dueAt >= wakeAt) return;
    cancelTimer();
    wakeAt = dueAt;
    cancelTimer = clock.after(Math.max(0, dueAt - clock.now()), () => {
      wakeAt = Number.POSITIVE_INFINITY;
      onDue();
    });
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
      wake(now);
    },
    async claim(count) {
      const now = clock.now();
      const claimed: ClaimedWebhook[] = [];
      for (const [id, one] of waiting) {
        if (claimed.length === count) break;
        if (one.isClaimed) continue;
        if (one.dueAt > now) {
          wake(one.dueAt);
          continue;
        }
        one.isClaimed = true;
        claimed.push({ id, text: one.text, ageMs: now - one.addedAt });
      }
      // After a full claim, the caller claims again.
      return claimed;
    },
    async remove(id) {
      waiting.delete(id);
    },
    async postpone(id, ms) {
      const one = waiting.get(id);
      if (one === undefined) return;
      Object.assign(one, { dueAt: clock.now() + ms, isClaimed: false });
      wake(one.dueAt);
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
