import type { FastifyBaseLogger } from 'fastify';
import type { Metrics } from '../metrics/index.ts';

/** Reports to operators what became of records: in a metric, and in one line for each outage of a destination. */
export interface Delivery {
  onWritten(count: number): void;
  /** Called for each failure after which records wait in memory. @param reason code of the error */
  onDelayed(reason: string): void;
  onDropped(count: number, reason: string): void;
}

export interface DeliveryOptions {
  readonly destination: string;
  readonly metrics: Pick<Metrics, 'usageRecords'>;
  readonly log: FastifyBaseLogger;
}

export function createDelivery({ destination, metrics, log }: DeliveryOptions): Delivery {
  // An alert on the first dropped record needs the series before it.
  for (const outcome of ['written', 'dropped']) metrics.usageRecords.inc({ destination, outcome }, 0);
  let isDelayed = false;
  /** Records dropped in this outage. */
  let dropped = 0;
  return {
    onWritten(count) {
      metrics.usageRecords.inc({ destination, outcome: 'written' }, count);
      if (!isDelayed && dropped === 0) return;
      log.info({ destination, dropped }, 'usage records are written again');
      isDelayed = false;
      dropped = 0;
    },
    onDelayed(reason) {
      if (isDelayed) return;
      isDelayed = true;
      log.warn({ destination, reason }, 'usage records cannot be written; they wait in memory');
    },
    onDropped(count, reason) {
      metrics.usageRecords.inc({ destination, outcome: 'dropped' }, count);
      if (dropped === 0) log.error({ destination, reason }, 'usage records are dropped');
      dropped += count;
    },
  };
}

/** Returns the code of an error. Never its text, which may hold a secret. */
export function codeOf(error: unknown): string {
  const { code, name } = error as NodeJS.ErrnoException;
  return code ?? name;
}
