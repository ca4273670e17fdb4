import type { FastifyInstance, FastifyReply } from 'fastify';
import type { Reader, Slice } from './events.ts';

/** Waiting for an answer whose client may leave. */

/** Resolves when the client has left. */
export function leaving({ raw }: FastifyReply): Promise<undefined> {
  return new Promise((resolve) => {
    if (raw.destroyed) resolve(undefined);
    else raw.once('close', () => resolve(undefined));
  });
}

/**
 * Waits for a reader's first slice, at most `ms`, or until the client leaves. `source` gives all
 * slices, the first again.
 */
export async function firstOf(
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
  const first = await Promise.race([waiting, late, gone]).finally(() => cancel());
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
