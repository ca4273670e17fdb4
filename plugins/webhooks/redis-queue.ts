import type { Cluster } from '../redis/index.ts';
import { loadScript, runScript, type Script } from '../redis/script.ts';
import { announcementKey, metaKey } from '../streams/redis/keys.ts';
import type { ClaimedWebhook, WebhookQueue } from './queue.ts';

export interface RedisQueueOptions {
  readonly cluster: Pick<Cluster, 'connection' | 'key' | 'streamKey'>;
  /** Milliseconds after which a claim of a dead replica ends: longer than an attempt takes. */
  readonly claimMs: number;
  /** Milliseconds for which an event is kept. */
  readonly keepMs: number;
  /** Called when a webhook may be due. */
  onDue(): void;
}

const script = (name: string) => loadScript(new URL(`./scripts/${name}.lua`, import.meta.url));
const SCHEDULE = script('schedule');
const DUE = script('due');
const CLAIM = script('claim');

/** Version of an announcement. A newer one is left to the replicas that know it. */
const FORMAT = 1;
/** Time between two looks at a stream that still runs. Its end makes the webhook due at once. */
const EXPECTED_MS = 30_000;
/** Most webhooks that Redis has not scheduled yet; most of them that one claim schedules. */
const MAX_UNSCHEDULED = 10_000;
const MAX_RESCHEDULED = 100;
/** Most looks of one claim into the schedule. Streams that still run may be due before an ended one. */
const MAX_LOOKS = 100;

/**
 * Webhooks of all replicas. The script that ends a log also writes the announcement, so that neither is without the other.
 * The schedule is a key of its own: it has the stream from its creation on, so that a death between the end and the
 * schedule delays the webhook, and does not lose it.
 */
export function createRedisQueue({ cluster, claimMs, keepMs, onDue }: RedisQueueOptions): WebhookQueue {
  const scheduleKey = cluster.key('webhooks');
  const run = (one: Script, keys: string[], args: (string | number)[]) =>
    cluster.connection.run((redis) => runScript(redis, one, keys, args));
  const schedule = (id: string, ms: number) => run(SCHEDULE, [scheduleKey], [id, ms, keepMs]);
  const unschedule = (id: string) => cluster.connection.run((redis) => redis.zrem(scheduleKey, id));

  /** Ended streams whose schedule Redis has not acknowledged. */
  const unscheduled = new Set<string>();

  const scheduleNow = async (id: string) => {
    await schedule(id, 0);
    unscheduled.delete(id);
  };

  const claimOne = async (id: string): Promise<ClaimedWebhook | undefined> => {
    const found = await run(CLAIM, [announcementKey(cluster, id), metaKey(cluster, id)], [claimMs, FORMAT]);
    if (found === 'later') return undefined;
    if (found === 'gone') {
      await unschedule(id);
      return undefined;
    }
    const [text, ageMs] = found as [string, number];
    return { id, text, ageMs };
  };

  /** Claims what the next `count` ids of the schedule have to deliver. After the last ones, another look is useless. */
  const claimDue = async (count: number) => {
    const ids = (await run(DUE, [scheduleKey], [count, Math.max(claimMs, EXPECTED_MS), keepMs])) as string[];
    const results = await Promise.allSettled(ids.map(claimOne));
    const isRefused = results.some(({ status }) => status === 'rejected');
    const claimed = results.map((one) => (one.status === 'fulfilled' ? one.value : undefined));
    return { claimed: claimed.filter((one) => one !== undefined), isLast: ids.length < count || isRefused };
  };

  return {
    isDurable: true,
    expect(id) {
      schedule(id, EXPECTED_MS).catch(() => {}); // Its end schedules it.
    },
    add(id) {
      if (unscheduled.size < MAX_UNSCHEDULED) unscheduled.add(id);
      scheduleNow(id).then(onDue, () => {}); // The next claim tries again.
    },
    async claim(count) {
      await Promise.all([...unscheduled].slice(0, MAX_RESCHEDULED).map(scheduleNow));
      for (let looks = 0; looks < MAX_LOOKS; looks++) {
        const { claimed, isLast } = await claimDue(count);
        // What is claimed is returned at once, because its claim runs out.
        if (claimed.length > 0 || isLast) return claimed;
      }
      return [];
    },
    async remove(id) {
      const key = announcementKey(cluster, id);
      await Promise.all([cluster.connection.run((redis) => redis.del(key)), unschedule(id)]).catch(() => {});
    },
    async postpone(id, ms) {
      const key = announcementKey(cluster, id);
      // If this fails, the claim ends, and the webhook is due again.
      await Promise.all([cluster.connection.run((redis) => redis.hdel(key, 'until')), schedule(id, ms)]).catch(
        () => {},
      );
    },
    hurry() {},
    close: () => 0,
  };
}
