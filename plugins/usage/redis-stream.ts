import type { Cluster } from '../redis/index.ts';
import { codeOf, type Delivery } from './delivery.ts';
import { Backlog, type Destination } from './destination.ts';

/** Records that are sent together after an outage. */
const BATCH = 500;
/** Name of the field of a stream entry that holds the record. */
const FIELD = 'record';

export interface RedisStreamOptions {
  readonly cluster: Pick<Cluster, 'connection' | 'lease' | 'key'>;
  /** About this many entries are kept, the newest. */
  readonly maxLength: number;
  readonly delivery: Delivery;
  readonly backlog?: Backlog;
}

/** Adds records to a Redis stream. A record whose reply is lost is sent again, so that it may be there twice. */
export function createRedisDestination(options: RedisStreamOptions): Destination {
  const { cluster, maxLength, delivery, backlog = new Backlog() } = options;
  const { connection, lease, key } = cluster;
  const stream = key('usage');
  const inFlight = new Set<Promise<boolean>>();
  let resending: Promise<void> | undefined;

  /** Returns false if the record waits again. Never rejects. */
  const add = async (record: string): Promise<boolean> => {
    try {
      await connection.run((redis) => redis.xadd(stream, 'MAXLEN', '~', maxLength, '*', FIELD, record));
      delivery.onWritten(1);
      return true;
    } catch (error) {
      if (backlog.push(record)) delivery.onDelayed(codeOf(error));
      else delivery.onDropped(1, codeOf(error));
      return false;
    }
  };
  const send = (record: string): Promise<boolean> => {
    const sent = add(record).finally(() => inFlight.delete(sent));
    inFlight.add(sent);
    return sent;
  };
  const sendBacklog = async () => {
    while (backlog.length > 0) {
      const results = await Promise.all(backlog.take(BATCH).map(send));
      if (results.includes(false)) break;
    }
    resending = undefined;
  };
  const resend = () => {
    if (backlog.length > 0) resending ??= sendBacklog();
    return resending;
  };
  lease.onRenewed(() => void resend());

  return {
    write: (record) => void send(record),
    async close() {
      await resending;
      while (inFlight.size > 0) await Promise.all(inFlight);
      await resend();
      return backlog.takeAll();
    },
  };
}
