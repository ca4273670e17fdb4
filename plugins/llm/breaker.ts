import type { Clock } from '../clock.ts';

export type BreakerState = 'closed' | 'half_open' | 'open';

/** Failures in a row that open the breaker. */
const FAILURE_THRESHOLD = 5;
/** Failures of one owner that count for everybody. Below the threshold: one client alone closes a target to no other. */
const MAX_COUNTED_PER_OWNER = 3;
/** Time that the breaker stays open. Doubles after each failed probe. */
const OPEN_DURATION_MS = { initial: 5_000, max: 60_000 };
/** Time between two calls through a half-open breaker. */
const PROBE_INTERVAL_MS = 1_000;

/** A change of state, for everybody or for one owner. */
export interface BreakerChange {
  readonly from: BreakerState;
  readonly to: BreakerState;
  /**
   * `failures`: too many in a row. `probe`: a call is let through. `probe_failed`, `succeeded`: the result of a call.
   * `replaced`: a block of another owner, or of everybody, takes the place of an owner's block. `removed`: the target
   * is no longer configured.
   */
  readonly reason: 'failures' | 'probe' | 'probe_failed' | 'succeeded' | 'replaced' | 'removed';
  /** The owner that alone is concerned; absent for everybody. */
  readonly owner?: string;
}

/** An admitted call. Nothing has to be given back: a call that never reports a result blocks no other. */
export interface Admission {
  readonly owner: string;
  /** Rises with each admission. Tells which calls began before a change of state: their results are ignored. */
  readonly sequence: number;
}

/** A period without calls, and after it one call per interval. */
interface Block {
  readonly openMs: number;
  readonly openUntil: number;
  nextCallAt: number;
  /** State that was reported last. */
  reported: 'open' | 'half_open';
  /** Sequence of the last admission before the block. */
  readonly since: number;
  /** The only owner that is blocked; absent for everybody. */
  readonly owner?: string;
}

/**
 * Circuit breaker of one target. Five failures in a row open it: for everybody if they come from several owners, else
 * only for the owner of the question, because the questions may be at fault. Where there is only one owner, that is
 * everybody. After a while one call a second is let through, and the first result decides.
 *
 * Not a library, because a call succeeds here with its first content and not with its end, because owners are told
 * apart, and because time comes from the injected clock.
 */
export class Breaker {
  readonly #clock: Clock;
  readonly #onChange: (change: BreakerChange) => void;
  /** Failures since the last success, by owner. Has at most five entries: with more, the breaker is open. */
  readonly #failures = new Map<string, number>();
  #block: Block | undefined;
  #ownerBlock: (Block & { readonly owner: string }) | undefined;
  #sequence = 0;
  /** Sequence of the last admission before the breaker closed. */
  #closedAt = 0;

  constructor(clock: Clock, onChange: (change: BreakerChange) => void) {
    this.#clock = clock;
    this.#onChange = onChange;
  }

  /** State for everybody, or, if the breaker is open for one owner only, for this one. */
  get state(): BreakerState {
    const block = this.#block ?? this.#ownerBlock;
    if (block === undefined) return 'closed';
    return this.#clock.now() < block.openUntil ? 'open' : 'half_open';
  }

  /** True if a call has failed since the last success. */
  get hasFailed(): boolean {
    return this.#failures.size > 0 || this.state !== 'closed';
  }

  isClosedFor(owner: string): boolean {
    return this.#block === undefined && this.#ownerBlock?.owner !== owner;
  }

  /** Returns the milliseconds until a call of this owner may be admitted; 0 if it is admitted now. */
  retryInMs(owner: string): number {
    const waits = this.#blocksOf(owner).map(({ nextCallAt }) => nextCallAt - this.#clock.now());
    return Math.max(0, ...waits);
  }

  /**
   * Admits a call, or returns undefined. Report its result by `succeeded`, when its first part has arrived, or by
   * `failed`. A call that says nothing about the target reports nothing.
   */
  admit(owner: string): Admission | undefined {
    if (this.retryInMs(owner) > 0) return undefined;
    this.#sequence += 1;
    for (const block of this.#blocksOf(owner)) {
      block.nextCallAt = this.#clock.now() + PROBE_INTERVAL_MS;
      if (block.reported === 'half_open') continue;
      block.reported = 'half_open';
      this.#report(block, 'open', 'half_open', 'probe');
    }
    return { owner, sequence: this.#sequence };
  }

  succeeded({ sequence }: Admission): void {
    if (this.#block !== undefined && sequence <= this.#block.since) return;
    const before = this.state;
    this.#failures.clear();
    const ended: Block[] = this.#block === undefined ? [] : [this.#block];
    this.#block = undefined;
    if (this.#ownerBlock !== undefined && sequence > this.#ownerBlock.since) {
      ended.push(this.#ownerBlock);
      this.#ownerBlock = undefined;
    }
    if (this.state !== before) this.#closedAt = this.#sequence;
    for (const block of ended) this.#report(block, block.reported, 'closed', 'succeeded');
  }

  failed({ owner, sequence }: Admission): void {
    const own = this.#ownerBlock?.owner === owner ? this.#ownerBlock : undefined;
    if (sequence <= Math.max(this.#closedAt, this.#block?.since ?? 0, own?.since ?? 0)) return;
    if (this.#block !== undefined) {
      // One owner cannot prolong the block of others either: a probe of another owner decides.
      const isSecondOwner = this.#ownerBlock !== undefined && own === undefined;
      if (isSecondOwner) this.#open(this.#block);
      else this.#openFor(owner, own ?? this.#block);
      return;
    }
    const failures = (this.#failures.get(owner) ?? 0) + 1;
    this.#failures.set(owner, failures);
    let counted = 0;
    for (const count of this.#failures.values()) counted += Math.min(count, MAX_COUNTED_PER_OWNER);
    if (counted >= FAILURE_THRESHOLD) this.#open();
    else if (own !== undefined || failures >= FAILURE_THRESHOLD) this.#openFor(owner, own);
  }

  /** Ends all blocks, because the target is no longer configured. */
  remove(): void {
    const ended = [this.#block, this.#ownerBlock];
    this.#block = undefined;
    this.#ownerBlock = undefined;
    this.#failures.clear();
    for (const block of ended) if (block) this.#report(block, block.reported, 'closed', 'removed');
  }

  #open(previous?: Block): void {
    const ended = this.#ownerBlock;
    this.#block = this.#blockAfter(previous);
    this.#ownerBlock = undefined;
    this.#failures.clear();
    if (ended) this.#report(ended, ended.reported, 'closed', 'replaced');
    this.#report(this.#block, previous?.reported ?? 'closed', 'open', previous ? 'probe_failed' : 'failures');
  }

  #openFor(owner: string, previous?: Block): void {
    const ended = this.#ownerBlock;
    this.#ownerBlock = { ...this.#blockAfter(previous), owner };
    if (ended && ended.owner !== owner) this.#report(ended, ended.reported, 'closed', 'replaced');
    const from = ended?.owner === owner ? ended.reported : 'closed';
    this.#report(this.#ownerBlock, from, 'open', previous ? 'probe_failed' : 'failures');
  }

  #report(block: Block, from: BreakerState, to: BreakerState, reason: BreakerChange['reason']): void {
    const { owner } = block;
    if (from !== to) this.#onChange({ from, to, reason, ...(owner !== undefined && { owner }) });
  }

  #blockAfter(previous: Block | undefined): Block {
    const openMs = previous ? Math.min(previous.openMs * 2, OPEN_DURATION_MS.max) : OPEN_DURATION_MS.initial;
    const openUntil = this.#clock.now() + openMs;
    return { openMs, openUntil, nextCallAt: openUntil, reported: 'open', since: this.#sequence };
  }

  #blocksOf(owner: string): Block[] {
    const blocks: Block[] = [];
    if (this.#block !== undefined) blocks.push(this.#block);
    if (this.#ownerBlock?.owner === owner) blocks.push(this.#ownerBlock);
    return blocks;
  }
}
