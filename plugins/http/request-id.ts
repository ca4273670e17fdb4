import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';

/** Returns the caller's `X-Request-Id` if it has 1 to 64 letters, digits, `_`, `.` or `-`; else a new id. */
export function requestId({ headers }: IncomingMessage): string {
  const given = headers['x-request-id'];
  return typeof given === 'string' && /^[\w.-]{1,64}$/.test(given) ? given : randomUUID();
}
