/**
 * Returns the ratio of the shortest times of a few runs; 1 if both are too short to be compared. Counts the time of the
 * CPU, because a busy machine pauses the process.
 */
export function timeRatio(run: (text: string) => void, small: string, large: string): number {
  const shortest = (text: string) => {
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 5; i++) {
      const before = process.cpuUsage();
      run(text);
      const { user } = process.cpuUsage(before);
      least = Math.min(least, user / 1000);
    }
    return least;
  };
  // Both lengths run the same optimized code.
  shortest(small);
  const time = shortest(large);
  return time < 5 ? 1 : time / Math.max(0.1, shortest(small));
}
