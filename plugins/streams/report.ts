import type { FastifyBaseLogger } from 'fastify';
import { ProviderError } from '../../providers/errors.ts';
import type { Clock } from '../clock.ts';
import type { ModelRoute, Target } from '../llm/model-routes.ts';
import type { Metrics } from '../metrics.ts';
import type { StreamLog, Terminal } from './types.ts';

export interface Report {
  onTarget(target: Target): void;
  onFirstPart(): void;
  onEnd(terminal: Terminal, fault?: unknown): void;
}

/** What operators learn of one generation: a log line and its metrics, however it ends. */
export function createReport(
  log: StreamLog,
  route: ModelRoute,
  { clock, metrics, logger }: { clock: Clock; metrics: Metrics; logger: FastifyBaseLogger },
): Report {
  const started = clock.now();
  let target: Target = route.targets[0];
  let firstPartAt: number | undefined;
  metrics.generationsActive.inc();

  return {
    onTarget(asked) {
      target = asked;
    },
    onFirstPart() {
      firstPartAt = clock.now();
    },
    onEnd(terminal, fault) {
      const durationMs = Math.round(clock.now() - started);
      const outcome = outcomeOf(terminal);
      metrics.generationsActive.dec();
      metrics.generationSeconds.observe({ provider: target.provider, outcome }, durationMs / 1000);
      if (outcome === 'internal') logger.error({ err: fault }, 'internal error');
      logger.info(
        {
          stream: log.info.id,
          model: route.name,
          provider: target.provider,
          upstreamModel: target.model,
          outcome,
          ...(terminal.type === 'end' && { finishReason: terminal.finishReason, usage: terminal.usage }),
          ...(fault instanceof ProviderError && { reason: fault.reason, upstreamStatus: fault.upstreamStatus }),
          ...(firstPartAt !== undefined && { firstTokenMs: Math.round(firstPartAt - started) }),
          durationMs,
          characters: log.length,
        },
        'stream ended',
      );
    },
  };
}

function outcomeOf(terminal: Terminal): string {
  if (terminal.type === 'error') return terminal.code;
  return terminal.finishReason === 'stopped' ? 'stopped' : 'ok';
}
