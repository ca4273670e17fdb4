export interface ReplyError extends Error {
  readonly name: 'ReplyError';
}

/**
 * Returns true for an error that Redis has replied with. By its name: without `REDIS_URL`, the client of Redis is not
 * loaded, which has the class.
 */
export function isReplyError(error: unknown): error is ReplyError {
  return error instanceof Error && error.name === 'ReplyError';
}
