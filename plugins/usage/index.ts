import type { Writable } from 'node:stream';
import fp from 'fastify-plugin';
import type { Config } from '../config/index.ts';
import { ConfigError } from '../config/load.ts';
import { codeOf, createDelivery } from './delivery.ts';
import type { Destination } from './destination.ts';
import { createFileDestination } from './file.ts';
import { createRecord, type EndedGeneration } from './record.ts';
import { createRedisDestination } from './redis-stream.ts';
import { createStdoutDestination } from './stdout.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly usage: UsageRecords;
  }
}

export type { EndedGeneration };

export interface UsageRecords {
  /** Writes the record of a generation. Call once, on the replica that counts its tokens. Never throws. */
  record(ended: EndedGeneration): void;
}

export interface UsageOptions {
  readonly settings: Config['usage'];
  /** Standard output. */
  readonly output: Writable;
}

/**
 * Adds `fastify.usage`, which writes one record for each ended generation.
 * @throws ConfigError if the file cannot be opened
 */
export default fp<UsageOptions>(
  async (fastify, { settings: { to, file, maxLength }, output }) => {
    const { clock, cluster, metrics, log } = fastify;
    if (to === 'none') {
      fastify.decorate('usage', { record() {} });
      return;
    }
    const deliveryTo = (destination: string) => createDelivery({ destination, metrics, log });
    const stdout = createStdoutDestination({ output, clock, delivery: deliveryTo('stdout') });

    const open = async (): Promise<Destination> => {
      const delivery = deliveryTo(to);
      if (to === 'redis' && cluster !== undefined) return createRedisDestination({ cluster, maxLength, delivery });
      if (to !== 'file' || file === undefined) return stdout;
      try {
        return await createFileDestination({ path: file, clock, delivery });
      } catch (error) {
        throw new ConfigError([`USAGE_FILE: cannot be opened for writing (${codeOf(error)})`]);
      }
    };
    const destination = await open();
    fastify.decorate('usage', {
      record: (ended) => destination.write(JSON.stringify(createRecord(ended, new Date()))),
    });
    fastify.addHook('onClose', async () => {
      const rest = await destination.close();
      if (rest.length > 0) {
        log.error({ destination: to, records: rest.length }, 'usage records follow on standard output instead');
        for (const record of rest) stdout.write(record);
      }
      await stdout.close();
    });
  },
  { name: 'usage', dependencies: ['clock', 'metrics', 'redis'] },
);
