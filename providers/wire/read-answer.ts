import { ProviderError } from '../errors.ts';
import type { FinishPart, StreamPart } from '../types.ts';
import type { Body } from './http.ts';
import { networkError } from './network-error.ts';
import type { PartBuffer } from './parts.ts';
import { createPartBuffer } from './parts.ts';

/** One provider's way of writing an answer: fed with bytes, it fills a part buffer. */
export interface AnswerDecoder {
  push(bytes: Uint8Array): void;
  /** After the last byte; delivers what has waited for it. */
  end(): void;
  /** True once the provider has said that nothing more will come, before the body's end. */
  readonly done: boolean;
  /** The finish part, or a thrown `upstream_truncated` where no sign of success was seen. */
  finish(): FinishPart;
}

/** A call that was made. */
export interface OpenedCall {
  readonly opening: Promise<Body>;
  /** Call once, when nothing more is read of it. */
  release(): void;
}

/** How long a body may take to end after its last word, so that its connection can be used again. */
const DRAIN_MS = 1_000;

/**
 * Opens a response body and turns it into parts; gives its socket back or closes it, whatever
 * happens. The one async generator between the socket and the LLM client: each costs a promise a part.
 */
export async function* readAnswer(
  ask: () => OpenedCall,
  createDecoder: (parts: PartBuffer) => AnswerDecoder,
): AsyncGenerator<StreamPart, void, undefined> {
  const { opening, release } = ask();
  const body = await opening.catch((error) => {
    release();
    throw error;
  });
  const parts = createPartBuffer();
  const decoder = createDecoder(parts);
  const readable = whenReadable(body);
  try {
    while (!decoder.done) {
      let taken = 0;
      const failure = catchError(() => {
        taken = readAvailable(body, decoder);
      });
      for (const part of parts.take()) yield part;
      if (failure !== undefined) throw failure;
      // Only a read that found nothing makes the body say when there is something, or its end.
      if (taken === 0 && (await readable())) break;
    }
    const failure = decoder.done ? undefined : catchError(() => decoder.end());
    for (const part of parts.flush()) yield part;
    if (failure !== undefined) throw failure;
    yield decoder.finish();
  } catch (error) {
    throw networkError(error, 'in_body');
  } finally {
    release();
    releaseBody(body, decoder.done);
  }
}

/**
 * All that waits, up to the body's `highWaterMark`. Newer versions of Node hand it out in the pieces
 * that it came in, and a part for each would be a write for each. Gives the bytes taken.
 */
function readAvailable(body: Body, decoder: AnswerDecoder): number {
  let taken = 0;
  while (taken < body.readableHighWaterMark && !decoder.done) {
    const chunk: Buffer | null = body.read();
    if (chunk === null) break;
    decoder.push(chunk);
    taken += chunk.length;
  }
  return taken;
}

/**
 * Waits for a body that has nothing to read: true at its end, a throw if it broke. What `for await`
 * does, without a second async generator around every read.
 */
function whenReadable(body: Body): () => Promise<boolean> {
  let settle: (() => void) | undefined;
  const wake = () => {
    settle?.();
    settle = undefined;
  };
  body.on('readable', wake).on('end', wake).on('error', wake).on('close', wake);

  return async () => {
    if (!body.readableEnded && !body.destroyed && body.readableLength === 0) {
      await new Promise<void>((resolve) => {
        settle = resolve;
      });
    }
    if (body.errored) throw body.errored;
    if (body.readableEnded) return true;
    if (body.destroyed) throw truncatedError();
    return false;
  };
}

/** What was decoded before a fault is still delivered, so the fault waits. */
function catchError(step: () => void): unknown {
  try {
    step();
    return undefined;
  } catch (error) {
    return error ?? new Error('unknown');
  }
}

function releaseBody(body: Body, complete: boolean): void {
  if (body.destroyed) return;
  if (!complete) {
    body.destroy();
    return;
  }
  body.removeAllListeners('readable'); // A stream that has one does not flow by itself.
  const limit = Number.MAX_SAFE_INTEGER; // undici counts what was read before, too
  body.dump({ limit, signal: AbortSignal.timeout(DRAIN_MS) }).catch(() => {});
}

/** The fault of a stream that stopped before its provider said that it was complete. */
export function truncatedError(): ProviderError {
  return new ProviderError('upstream_truncated', { reason: 'truncated', retryable: true });
}
