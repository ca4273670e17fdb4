import type { UncountedCall, Usage } from '../../providers/types.ts';
import { ANONYMOUS } from '../auth/identity.ts';
import { keyNameOf, splitOwner } from '../auth/owner.ts';
import type { TokenUse } from '../limits/tokens.ts';
import { type CostUse, sumCosts } from '../prices/cost.ts';
import { type AttemptRecord, type Basis, basisOf, shareOut } from './attempt-records.ts';
import { type Attempt, attemptElsewhere } from './attempts.ts';

/** Makes the usage record of a generation. Pure. */

/** A generation that has ended, as the replica that counts its tokens knows it. */
export interface EndedGeneration {
  readonly stream: string;
  readonly owner: string;
  /** Public name of the model. */
  readonly model: string;
  /** `ok`, `stopped`, or the code of the error. */
  readonly outcome: string;
  readonly finishReason?: string | undefined;
  /** As the provider counted it. */
  readonly usage?: Usage | undefined;
  readonly used: TokenUse;
  /** Undefined if it is unknown. */
  readonly cost: CostUse | undefined;
  /** The calls among `attempts` that broke off before the last one, if a provider has counted that one. */
  readonly uncounted?: readonly UncountedCall[] | undefined;
  readonly attempts?: readonly Attempt[];
  readonly durationMs?: number;
  readonly firstTokenMs?: number | undefined;
}

/** One line of usage. What is unknown is absent. */
export interface UsageRecord {
  /** Version of the format. Marks the line among others. */
  readonly usage: 1;
  /** End of the generation, in UTC. */
  readonly time: string;
  readonly stream: string;
  /** Name of the key, or a word as in the label `key` of metrics. */
  readonly key: string;
  /** Hash of the visitor of a key. */
  readonly visitor?: string | undefined;
  /** Hash of issuer and subject of a token. */
  readonly subject?: string | undefined;
  readonly model: string;
  readonly outcome: string;
  readonly finishReason?: string | undefined;
  readonly basis: Basis;
  /** With the estimated ones. */
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly estimatedInputTokens: number;
  readonly estimatedOutputTokens: number;
  readonly cachedTokens?: number | undefined;
  readonly cacheWriteTokens?: number | undefined;
  readonly reasoningTokens?: number | undefined;
  /** USD, with the estimated part. */
  readonly cost?: number | undefined;
  readonly estimatedCost?: number | undefined;
  readonly attempts: readonly AttemptRecord[];
  readonly firstTokenMs?: number | undefined;
  readonly durationMs?: number | undefined;
}

export function createRecord(ended: EndedGeneration, now: Date): UsageRecord {
  const { stream, owner, model, outcome, finishReason, used, usage, firstTokenMs, durationMs } = ended;
  const { counted, estimated } = used;
  // Also a generation without a known call has tokens: those of a replica that has died.
  const attempts = ended.attempts?.length ? ended.attempts : [attemptElsewhere()];
  return {
    usage: 1,
    time: now.toISOString(),
    stream,
    ...namesOf(owner),
    model,
    outcome,
    finishReason,
    basis: basisOf(used),
    inputTokens: counted.input + estimated.input,
    outputTokens: counted.output + estimated.output,
    estimatedInputTokens: estimated.input,
    estimatedOutputTokens: estimated.output,
    cachedTokens: countOf(usage?.cachedTokens),
    cacheWriteTokens: countOf(usage?.cacheWriteTokens),
    reasoningTokens: countOf(usage?.reasoningTokens),
    cost: ended.cost && sumCosts([ended.cost.counted, ended.cost.estimated]),
    estimatedCost: ended.cost?.estimated,
    attempts: shareOut({ ...ended, attempts }),
    firstTokenMs,
    durationMs,
  };
}

/** Returns the names that stand for an owner. None of them is a secret. */
function namesOf(owner: string): Pick<UsageRecord, 'key' | 'visitor' | 'subject'> {
  const { holder, visitor } = splitOwner(owner);
  if (owner === ANONYMOUS.owner) return { key: '_anonymous' };
  const subject = holder.startsWith('jwt:') ? holder.slice('jwt:'.length) : undefined;
  // A key that is no longer configured has its name here: it has to be paid for, and lines need no bound of names.
  return { key: keyNameOf(owner) ?? (subject === undefined ? '_unknown' : '_token'), visitor, subject };
}

/** Returns a count of a provider; undefined for one that cannot be a number of tokens. */
function countOf(count: number | undefined): number | undefined {
  return count !== undefined && count >= 0 && Number.isFinite(count) ? count : undefined;
}
