/** Options of every provider in these tests, except the base URL. */
export const OPTIONS = {
  name: 'p',
  /** `openai` speaks Responses if it is not told otherwise. */
  api: 'chat' as 'chat' | 'responses' | undefined,
  apiKeys: [] as string[],
  connections: 10,
  readIntervals: { now: () => performance.now(), intervalMs: () => 0, afterInterval: () => {} },
  highWaterMark: 16_384,
  connectTimeoutMs: 1_000,
  headersTimeoutMs: 2_000,
  now: () => performance.now(),
};
