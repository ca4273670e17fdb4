/** Returns the ratio of the shortest times of a few runs; 1 if both are too short to be compared. */
export function timeRatio(run: (text: string) => void, small: string, large: string): number {
  const shortest = (text: string) => {
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 3; i++) {
      const start = performance.now();
      run(text);
      least = Math.min(least, performance.now() - start);
    }
    return least;
  };
  const time = shortest(large);
  return time < 5 ? 1 : time / shortest(small);
}
