import fp from 'fastify-plugin';
import type { Config } from '../config/index.ts';
import type { ModelRoute, Target } from '../config/model-routes.ts';
import type { ModelPrice, PriceTable } from '../config/price-file.ts';
import { findPrice } from './lookup.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly prices: Prices;
  }
}

export interface Prices {
  /** Returns the price of a target: its own, that of its model, or that of the price file; undefined if it is unknown. */
  find(target: Target, route: Pick<ModelRoute, 'price'>): ModelPrice | undefined;
}

export interface PricesOptions {
  /** The configured providers: their types name models in the price file. */
  readonly providers: Config['providers'];
  /** The prices of the price file. */
  readonly table: PriceTable | undefined;
}

/** Adds `fastify.prices`, and takes the prices of each reload. */
export default fp<PricesOptions>(
  async (fastify, { providers, ...options }) => {
    let { table } = options;
    const use = (next: PriceTable | undefined) => {
      table = next;
      if (next === undefined || next.skipped === 0) return;
      const { skipped, entries } = next;
      fastify.log.warn({ skipped, models: entries.size }, 'price file has wrong entries; their models have no price');
    };
    use(table);
    fastify.onConfigReload(({ priceTable }) => use(priceTable));
    fastify.decorate('prices', {
      find: (target, { price }) =>
        target.price ?? price ?? (table && findPrice(table, target, providers[target.provider]?.type)),
    });
  },
  { name: 'prices', dependencies: ['config'] },
);
