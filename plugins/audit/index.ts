import type { FastifyBaseLogger, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { Refusal } from '../auth/refusals.ts';
import type { ReloadReport } from '../config/index.ts';
import type { Target } from '../config/model-routes.ts';
import type { BreakerChange } from '../llm/breaker.ts';
import { createLineLimit, type LineLimit } from './line-limit.ts';

declare module 'fastify' {
  interface FastifyInstance {
    readonly audit: Audit;
  }
}

/**
 * Logs who was refused, and what has changed. Each line has the field `audit` with the name of its event. No line holds
 * a key, a hash of one, or a question.
 */
export interface Audit {
  /** `models` are the public names of all models. */
  configReloaded(report: ReloadReport, models: readonly string[]): void;
  configRefused(problems: readonly string[]): void;
  credentialsRefused(request: FastifyRequest, refusal: Refusal): void;
  /** `model` is the label of a model: its name, or `provider/*` if clients choose the names. */
  modelRefused(log: FastifyBaseLogger, owner: string, model: string): void;
  /** `isFirst` is false for a key that was refused before and not accepted since. */
  providerKeyCooldown(provider: string, reason: 'credentials' | 'rate_limited', isFirst: boolean): void;
  breakerChanged(target: Target, change: BreakerChange): void;
}

/** Events whose number clients and providers decide, with their lines per minute: about one source, and in all. */
const LIMITS = {
  /** By address of the client. */
  credentials_refused: { perSource: 5, total: 100 },
  /** By owner. */
  model_refused: { perSource: 5, total: 100 },
  /** By provider. */
  provider_key_cooldown: { perSource: 10, total: 100 },
  /** By target. */
  breaker_changed: { perSource: 20, total: 200 },
};
type LimitedEvent = keyof typeof LIMITS;

/** Names of each kind in one line about a reload. Further names follow in further lines. */
const NAMES_PER_LINE = 100;

/** Adds `fastify.audit`. */
export default fp(
  async (fastify) => {
    const { clock, log } = fastify;
    const limits = new Map<LimitedEvent, LineLimit>();
    for (const [event, bounds] of Object.entries(LIMITS) as [LimitedEvent, (typeof LIMITS)[LimitedEvent]][]) {
      const onSuppressed = (suppressed: number) =>
        log.warn(
          { audit: 'lines_suppressed', event, suppressed },
          'too many audit lines in a minute; not all are logged',
        );
      limits.set(event, createLineLimit({ clock, ...bounds, onSuppressed }));
    }
    const passes = (event: LimitedEvent, source: string) => limits.get(event)?.pass(source) === true;
    fastify.addHook('onClose', async () => {
      for (const limit of limits.values()) limit.close();
    });

    const audit: Audit = {
      configReloaded({ keys, apiKeys, changes, needsRestart }, models) {
        const { jwtChanged, ...lists } = changes;
        const message = 'configuration reloaded: provider keys, client keys, tokens and models';
        const [first, ...rest] = partsOf(lists);
        log.info({ audit: 'config_reloaded', models, keys, apiKeys, jwtChanged, ...first }, message);
        for (const part of rest)
          log.info({ audit: 'config_reloaded', ...part }, 'configuration reloaded: further names');
        if (needsRestart.length > 0) {
          log.warn({ settings: needsRestart }, `needs a restart: ${needsRestart.join(', ')}`);
        }
      },
      configRefused(problems) {
        log.error({ audit: 'config_refused', problems }, 'configuration not applied; nothing has changed');
      },
      credentialsRefused({ log: requestLog, ip, method, routeOptions }, { reason, owner }) {
        if (!passes('credentials_refused', ip)) return;
        const fields = { audit: 'credentials_refused', reason, owner, method, route: routeOptions.url ?? null };
        requestLog.warn(fields, 'credentials refused; the request gets 401');
      },
      modelRefused(requestLog, owner, model) {
        if (!passes('model_refused', owner)) return;
        requestLog.warn({ audit: 'model_refused', owner, model }, 'model refused; the request gets 403');
      },
      providerKeyCooldown(provider, reason, isFirst) {
        // A refused key needs an operator, once: no flood may hide it.
        const isRefused = reason === 'credentials' && isFirst;
        if (!isRefused && !passes('provider_key_cooldown', provider)) return;
        const fields = { audit: 'provider_key_cooldown', provider, reason };
        if (isRefused) log.error(fields, 'api key refused by the provider; the key is not used for a while');
        else log.info(fields, 'api key in cooldown; the key is not used for a while');
      },
      breakerChanged({ provider, model }, change) {
        if (!passes('breaker_changed', `${provider}/${model}`)) return;
        const level = change.to === 'open' ? 'warn' : 'info';
        log[level]({ audit: 'breaker_changed', provider, model, ...change }, 'circuit breaker of a target has changed');
      },
    };
    fastify.decorate('audit', audit);
  },
  { name: 'audit', dependencies: ['clock'] },
);

type NameLists = Readonly<Record<string, readonly string[]>>;

/** Splits lists of names so that no line is too long. Returns at least one part. */
function partsOf(lists: NameLists): NameLists[] {
  const longest = Math.max(...Object.values(lists).map(({ length }) => length));
  return Array.from({ length: Math.max(1, Math.ceil(longest / NAMES_PER_LINE)) }, (_, part) => {
    const slices = Object.entries(lists).map(([kind, names]): [string, readonly string[]] => [
      kind,
      names.slice(part * NAMES_PER_LINE, (part + 1) * NAMES_PER_LINE),
    ]);
    // Kinds without a name would fill the line.
    return Object.fromEntries(slices.filter(([, names]) => names.length > 0));
  });
}
