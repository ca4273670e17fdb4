import type { FastifyReply } from 'fastify';
import type { LogReader, Slice } from '../plugins/streams/api.ts';

/** Waits for an answer whose client may disconnect. */

/** Resolves when the client has disconnected or has received the whole response. */
export function clientDisconnected({ raw, request }: FastifyReply): Promise<undefined> {
  const { socket } = request.raw;
  return new Promise((resolve) => {
    const onClose = () => {
      raw.off('close', onClose);
      // A pipelined response gets its socket only when the response before it has ended.
      socket.off('close', onClose);
      resolve(undefined);
    };
    if (raw.destroyed || socket.destroyed) resolve(undefined);
    else {
      raw.once('close', onClose);
      socket.once('close', onClose);
    }
  });
}

/**
 * Waits for the first slice of a reader, at most `ms` milliseconds, or until the client disconnects. The
 * returned reader gives all slices, the first one again.
 */
export async function waitForFirstSlice(
  reader: LogReader,
  reply: FastifyReply,
  ms: number,
): Promise<{ first: Slice | undefined; reader: LogReader }> {
  let pending: Promise<Slice> | undefined = reader.next();
  const first = await reply.server.waitAtMost(ms, Promise.race([pending, clientDisconnected(reply)])).catch((error) => {
    reader.close();
    throw error;
  });
  return {
    first,
    reader: {
      next() {
        const next = pending ?? reader.next();
        pending = undefined;
        return next;
      },
      close: () => reader.close(),
    },
  };
}
