import type { FastifyBaseLogger } from 'fastify';
import { OverloadedError, ProviderError } from '../../providers/errors.ts';
import type { Clock } from '../clock.ts';
import type { ModelRoute, Target } from '../config/model-routes.ts';
import type { TokenUse } from '../limits/tokens.ts';
import type { Metrics } from '../metrics/index.ts';
import type { CostUse } from '../prices/cost.ts';
import type { EndedGeneration, UsageRecords } from '../usage/index.ts';
import { countSpending } from './spending.ts';
import { outcomeOf } from './terminals.ts';
import type { Terminal, WritableLog } from './types.ts';

/** The provider calls of a generation, for its usage record. */
export type Calls = Pick<EndedGeneration, 'attempts' | 'uncounted'>;

/** Reports one generation to operators: one log line, its metrics and its usage record, for every outcome. */
export interface GenerationReport {
  onTarget(target: Target): void;
  onFirstPart(): void;
  /**
   * @param used undefined if another replica counts the tokens of the answer
   * @param cost undefined if it is unknown, or if another replica counts it
   */
  onEnd(terminal: Terminal, fault: unknown, calls: Calls, used?: TokenUse, cost?: CostUse): void;
}

export function createReport(
  log: WritableLog,
  route: ModelRoute,
  options: { clock: Clock; metrics: Metrics; usage: UsageRecords; logger: FastifyBaseLogger },
): GenerationReport {
  const { clock, metrics, usage: usageRecords, logger } = options;
  const startedAt = clock.now();
  let target: Target = route.targets[0];
  let firstPartAt: number | undefined;
  metrics.generationsActive.inc();

  return {
    onTarget(next) {
      target = next;
    },
    onFirstPart() {
      firstPartAt ??= clock.now();
    },
    onEnd(terminal, fault, calls, used, cost) {
      const durationMs = Math.round(clock.now() - startedAt);
      const outcome = outcomeOf(terminal);
      metrics.generationsActive.dec();
      const model = route.label;
      metrics.generations.inc({ model, target: targetLabel(target, route), outcome });
      metrics.generationSeconds.observe({ model, outcome }, durationMs / 1000);
      const reason = ABORT_REASONS[outcome];
      if (reason !== undefined && fault === undefined) metrics.generationsAborted.inc({ reason });
      const firstTokenMs = firstPartAt === undefined ? undefined : Math.round(firstPartAt - startedAt);
      const { id: stream, owner } = log.info;
      if (used !== undefined) {
        countSpending(metrics, { model, owner, used, cost, terminal });
        const { finishReason, usage } = terminal.type === 'end' ? terminal : {};
        const names = { stream, owner, model: route.name, outcome, finishReason };
        usageRecords.record({ ...names, usage, used, cost, ...calls, durationMs, firstTokenMs });
      }
      if (outcome === 'internal') logger.error({ err: fault }, 'internal error');
      logger.info(
        {
          stream,
          owner,
          model: route.name,
          provider: target.provider,
          upstreamModel: target.model,
          outcome,
          ...(terminal.type === 'end' && { finishReason: terminal.finishReason, usage: terminal.usage }),
          ...(fault instanceof ProviderError && faultFields(fault)),
          ...(fault instanceof OverloadedError && { reason: fault.reason }),
          ...(firstTokenMs !== undefined && { firstTokenMs }),
          durationMs,
          characters: log.length,
          ...(used && { tokens: used }),
          ...(cost && { cost }),
        },
        'stream ended',
      );
    },
  };
}

function faultFields({ reason, upstreamStatus, refusal, param, tlsCode }: ProviderError): object {
  return { reason, upstreamStatus, refusal, param, tlsCode };
}

/** Label `reason` of generations that this service ended although their calls had not failed. */
const ABORT_REASONS: Readonly<Record<string, string>> = {
  abandoned: 'readers',
  stopped: 'stop',
  limit_exceeded: 'limit',
  stream_lost: 'shutdown',
  revoked: 'revoked',
};

/** Models of a provider that allows all models share one label, because clients choose their names. */
function targetLabel({ provider, model }: Target, { label }: ModelRoute): string {
  return label === `${provider}/*` ? label : `${provider}/${model}`;
}
