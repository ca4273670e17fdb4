/** A condition that counts only when it has lasted. */
export interface Sustained {
  /** Follows the condition. Returns true if it holds, and has been the rule for `SUSTAINED_MS`. */
  update(holds: boolean): boolean;
}

/** Time for which a core must be full before questions are refused. A burst of questions is over sooner. */
const SUSTAINED_MS = 3_000;

/**
 * Follows a condition that is measured often. It becomes the rule when it has held for `SUSTAINED_MS` on end, and stops
 * being the rule when it has not held for as long. Without the second, every short pause of an overload would admit
 * questions without a bound for three seconds.
 */
export function createSustained(now: () => number): Sustained {
  let isRule = false;
  let differsSince: number | undefined;
  let updatedAt = now();
  return {
    update(holds) {
      // Nothing asked in between, so nothing kept the core full.
      if (!holds && now() - updatedAt >= SUSTAINED_MS) isRule = false;
      updatedAt = now();
      if (holds === isRule) differsSince = undefined;
      else if (differsSince === undefined) differsSince = now();
      else if (now() - differsSince >= SUSTAINED_MS) {
        isRule = holds;
        differsSince = undefined;
      }
      return isRule && holds;
    },
  };
}
