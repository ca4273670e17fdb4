import type { FastifyRequest } from 'fastify';
import type { Stream } from '../plugins/streams/api.ts';
import type { Reconnection } from './sse-events.ts';

/** Time in milliseconds for which a token must still be valid: its client needs it for the next connection. */
const TOKEN_MARGIN_MS = 30_000;

/**
 * Returns the conditions under which a reader may be disconnected before its stream has ended.
 * @param reconnects true if the client comes back by itself, with the position behind which it continues
 */
export function reconnectionOf(
  { identity, server }: FastifyRequest,
  stream: Pick<Stream, 'resumable'>,
  reconnects: boolean,
): Reconnection {
  const { tokenExpires = Number.POSITIVE_INFINITY } = identity;
  return {
    canResumeElsewhere: () => server.streams.shared && stream.resumable,
    canReconnect: () => reconnects && stream.resumable && tokenExpires > Date.now() + TOKEN_MARGIN_MS,
  };
}
