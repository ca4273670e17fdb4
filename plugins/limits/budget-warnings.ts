import fp from 'fastify-plugin';
import type { Quota } from '../auth/identity.ts';
import type { Config } from '../config/index.ts';
import type { Prompt } from '../llm/client.ts';

/** A question without options of its own, so that those of the model apply. */
const EMPTY: Prompt = { messages: [] };

/** Logs at the start and after each reload what keeps budgets from working as somebody may expect. */
export default fp(
  async ({ cluster, config, llm, log, onConfigReload }) => {
    const warn = (settings: Config) => {
      if (!hasBudget(settings)) return;
      // Open providers are listed without the names of their models.
      const models = llm.models.filter(
        (name) => !name.endsWith('/*') && llm.prices(llm.route(name), EMPTY) === undefined,
      );
      if (models.length > 0) {
        log.warn({ models }, 'models without a price cannot be used with a budget; set models[].price or PRICES_FILE');
      }
      if (cluster === undefined) {
        log.warn('budgets are kept in memory and lost at a restart; set REDIS_URL to keep them');
      }
    };
    warn(config);
    onConfigReload(warn);
  },
  { name: 'budget-warnings', dependencies: ['config', 'llm', 'redis'] },
);

function hasBudget({ keys, keyDefaults, jwt }: Pick<Config, 'keys' | 'keyDefaults' | 'jwt'>): boolean {
  const callers: ((Quota & { readonly visitors?: Quota | undefined }) | undefined)[] = [
    ...keys,
    keyDefaults,
    jwt?.defaults,
  ];
  return callers.some((caller) => (caller?.budget ?? caller?.visitors?.budget) !== undefined);
}
