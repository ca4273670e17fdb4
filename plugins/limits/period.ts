/** A time in which an owner gets a number of tokens. */
export interface Period {
  readonly ms: number;
  /** Part of the keys in Redis. */
  readonly name: string;
}

export const MINUTE: Period = { ms: 60_000, name: 'tokens' };
export const DAY: Period = { ms: 86_400_000, name: 'tokens-day' };
