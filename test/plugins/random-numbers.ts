/** Numbers below `limit` in an order that depends on the seed alone. */
export function randomNumbers(seed: number): (limit: number) => number {
  let state = seed * 7_919;
  return (limit) => {
    state = (state * 48_271) % 2_147_483_647;
    return state % limit;
  };
}
