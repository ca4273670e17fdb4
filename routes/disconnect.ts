import type { FastifyInstance, FastifyReply } from 'fastify';
import type { Reader, Slice } from './sse-events.ts';

/** Waiting for an answer whose client may leave. */

/** Resolves when the client has left, or has its answer. */
export function clientDisconnected({ raw, request }: FastifyReply): Promise<undefined> {
  const { socket } = request.raw;
  return new Promise((resolve) => {
    const onClose = () => {
      raw.off('close', onClose);
      // A pipelined response has no socket of its own until the one before it is done.
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
 * Waits for a reader's first slice, at most `ms`, or until the client leaves. `source` gives all
 * slices, the first again.
 */
export async function waitForFirstSlice(
  reader: Reader,
  clock: FastifyInstance['clock'],
  ms: number,
  gone: Promise<undefined>,
): Promise<{ first: Slice | undefined; source: Reader }> {
  let waiting: Promise<Slice> | undefined = reader.next();
  let cancel = () => {};
  const late = new Promise<undefined>((resolve) => {
    cancel = clock.after(ms, () => resolve(undefined));
  });
  const first = await Promise.race([waiting, late, gone])
    .catch((error) => {
      reader.close();
      throw error;
    })
    .finally(() => cancel());
  const source: Reader = {
    next() {
      const next = waiting ?? reader.next();
      waiting = undefined;
      return next;
    },
    close: () => reader.close(),
  };
  return { first, source };
}
