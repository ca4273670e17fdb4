import { ProviderError } from '../errors.ts';
import type { FinishPart, StreamPart } from '../types.ts';
import type { Body } from './http.ts';
import { networkError } from './network-error.ts';
import { createPartBuffer, type PartBuffer } from './parts.ts';

/** Decodes the bytes of one answer into a part buffer. */
export interface AnswerDecoder {
  /** Decodes the next bytes. @throws ProviderError for an invalid stream or an error in the stream */
  push(bytes: Uint8Array): void;
  /** Call after the last byte. Decodes an incomplete last event. @throws ProviderError as `push` does */
  end(): void;
  /** True if the provider has marked the end of the answer. May be true before the end of the body. */
  readonly done: boolean;
  /** Returns the finish part. @throws ProviderError `upstream_truncated` if the answer is not complete */
  finish(): FinishPart;
}

/** A call that was sent to the upstream. */
export interface UpstreamCall {
  /** Resolves to the response body, or rejects if the call fails before it. */
  readonly body: Promise<Body>;
  /** Ends the use of the API key. Call once, when the body is no longer read. */
  release(): void;
}

/**
 * Maximum wait for the end of a body after a complete answer. If the body ends, its connection can be used
 * again.
 */
const DRAIN_TIMEOUT_MS = 1_000;

/**
 * Makes a call and yields the parts of its answer; the last one is the finish part. In any case releases the
 * call, and returns its socket to the pool or closes it.
 *
 * This is the only async generator between the socket and the LLM client, because each one costs a promise per
 * part.
 * @throws ProviderError if the call fails or the answer is incomplete; the abort error after an abort
 */
export async function* readAnswer(
  startCall: () => UpstreamCall,
  createDecoder: (parts: PartBuffer) => AnswerDecoder,
): AsyncGenerator<StreamPart, void, undefined> {
  const { body: response, release } = startCall();
  const body = await response.catch((error) => {
    release();
    throw error;
  });
  const parts = createPartBuffer();
  const decoder = createDecoder(parts);
  const waitForData = createDataWaiter(body);
  try {
    while (!decoder.done) {
      let bytesRead = 0;
      const failure = catchError(() => {
        bytesRead = readAvailable(body, decoder);
      });
      for (const part of parts.take()) yield part;
      if (failure !== undefined) throw failure;
      // The body emits 'readable' and 'end' only after a read that returned null.
      if (bytesRead === 0 && (await waitForData())) break;
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
 * Decodes the buffered bytes of the body, up to about its high-water mark, and returns their number. Newer
 * versions of Node return the buffer in the chunks that were received; one part per chunk would mean one write
 * per chunk.
 */
function readAvailable(body: Body, decoder: AnswerDecoder): number {
  let bytesRead = 0;
  while (bytesRead < body.readableHighWaterMark && !decoder.done) {
    const chunk: Buffer | null = body.read();
    if (chunk === null) break;
    decoder.push(chunk);
    bytesRead += chunk.length;
  }
  return bytesRead;
}

/**
 * Returns a function that waits for data. It resolves to true at the end of the body, to false if there is
 * data, and rejects if the body has failed. Replaces `for await`, which would add a second async generator to
 * every read.
 */
function createDataWaiter(body: Body): () => Promise<boolean> {
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

/** Runs a step and returns its error, so that the parts decoded before the error can be delivered first. */
function catchError(step: () => void): unknown {
  try {
    step();
    return undefined;
  } catch (error) {
    return error ?? new Error('unknown');
  }
}

/** Lets a complete body end, so that its connection can be used again; closes the connection of any other. */
function releaseBody(body: Body, isComplete: boolean): void {
  if (body.destroyed) return;
  if (!isComplete) {
    body.destroy();
    return;
  }
  body.removeAllListeners('readable'); // A stream with such a listener does not flow.
  const limit = Number.MAX_SAFE_INTEGER; // undici also counts the bytes that were read before.
  body.dump({ limit, signal: AbortSignal.timeout(DRAIN_TIMEOUT_MS) }).catch(() => {});
}

/** Returns the error for a stream that ended before the answer was complete. */
export function truncatedError(): ProviderError {
  return new ProviderError('upstream_truncated', { reason: 'truncated', retryable: true });
}
