/** Milliseconds below which times are not compared: the kernel counts CPU time in steps of a few. */
const MIN_MS = 40;

/** The shortest time of so many runs counts. */
const RUNS = 3;
/** Ratio up to which tests take a run for linear at four times the length. */
const LINEAR = 6;
/** On a busy machine, caches and the clock of the CPU change while it is measured: a higher ratio is measured again. */
const MAX_ROUNDS = 4;

/**
 * Returns the ratio of the shortest times of a few runs; 1 if both are too short to be compared. Counts the time of the
 * CPU, because a busy machine pauses the process.
 */
export function timeRatio(run: (text: string) => void, small: string, large: string): number {
  const shortest = (text: string) => {
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i < RUNS; i++) {
      const before = process.cpuUsage();
      run(text);
      const { user } = process.cpuUsage(before);
      least = Math.min(least, user / 1000);
    }
    return least;
  };
  run(small); // Both lengths run the same optimized code.
  let ratio = Number.POSITIVE_INFINITY;
  for (let round = 0; round < MAX_ROUNDS && ratio > LINEAR; round++) {
    const time = shortest(large);
    ratio = Math.min(ratio, time < MIN_MS ? 1 : time / Math.max(MIN_MS / 10, shortest(small)));
  }
  return ratio;
}
