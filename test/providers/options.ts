/** What every provider is made with, but for its address. */
export const OPTIONS = {
  name: 'p',
  apiKeys: [] as string[],
  connections: 10,
  pace: { now: () => performance.now(), frameMs: () => 0, afterFrame: () => {} },
  highWaterMark: 16_384,
  connectTimeoutMs: 1_000,
  headersTimeoutMs: 2_000,
  now: () => performance.now(),
};
