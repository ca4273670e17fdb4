import { ProviderError } from '../errors.ts';
import type { FinishPart, StreamPart } from '../types.ts';
import { truncatedError } from './answer-end.ts';
import type { Body } from './http.ts';
import { networkError } from './network-error.ts';
import { type Anomaly, createPartBuffer, type PartBuffer } from './parts.ts';

/** Decodes the bytes of one answer into a part buffer. */
export interface AnswerDecoder {
  /** Decodes the next bytes. @throws ProviderError for an invalid stream or an error in the stream */
  push(bytes: Uint8Array): void;
  /** Call after the last byte. Decodes an incomplete last event. @throws ProviderError as `push` does */
  end(): void;
  /** True after the provider's end marker: nothing more is read. */
  readonly done: boolean;
  /** True after a finish reason: from now on only an error object turns the answer into a failure. */
  readonly isFinished: boolean;
  /**
   * Adds the parts that were held back, and returns the finish part.
   * @throws ProviderError `upstream_truncated` if the answer is not complete
   */
  finish(): FinishPart;
}

/** A request that was sent to the upstream. */
export interface UpstreamCall {
  /** Resolves to the response body, or rejects if the request fails before it. */
  readonly body: Promise<Body>;
  /**
   * Call if the request has failed, before its body or in it. Returns true if the fault concerns its API key: the
   * request may succeed with another one.
   */
  failed(fault: unknown): boolean;
  /** Ends the use of the API key. Call once, when the body is no longer read. */
  release(): void;
}

/** Sends the request; each further time with another API key. Returns undefined if no other key can be used. */
export type StartCall = () => UpstreamCall | undefined;

/**
 * Maximum wait for the end of a body after a complete answer. If the body ends, its connection can be used
 * again.
 */
const DRAIN_TIMEOUT_MS = 1_000;
/**
 * Maximum wait after a finish reason, counted from the last part, for usage, the end marker or an error. What
 * arrives without a part, such as heartbeats, does not extend it.
 */
const FINISH_TIMEOUT_MS = 1_000;

const FINISHING: StreamPart = { type: 'finishing' };
const THINKING: StreamPart = { type: 'thinking' };

/**
 * Makes a call and yields the parts of its answer; the last one is the finish part. If the provider refuses or limits
 * the API key before the first part, sends the request again with the next key. In any case releases each
 * request, and returns its socket to the pool or closes it.
 *
 * This is the only async generator between the socket and the LLM client, because each one costs a promise per
 * part.
 * @throws ProviderError if the call fails or the answer is incomplete; the abort error after an abort
 */
export async function* readAnswer(
  startCall: StartCall,
  createDecoder: (parts: PartBuffer) => AnswerDecoder,
  onAnomaly?: (kind: Anomaly) => void,
): AsyncGenerator<StreamPart, void, undefined> {
  /** Undefined after the first part: the request is not held in memory any longer. */
  let startNext: StartCall | undefined = startCall;
  // A generator holds its parameters until it ends.
  startCall = NO_CALL;
  for (let call = startNext(); call !== undefined; ) {
    const parts = createPartBuffer(onAnomaly);
    const decoder = createDecoder(parts);
    let body: Body | undefined;
    let fault: unknown;
    /** Time at which a finished answer ends, whatever the connection does; undefined before the finish reason. */
    let endsAt: number | undefined;
    let isOver = false;
    try {
      body = await call.body;
      const waitForData = createDataWaiter(body);
      while (!isOver && !decoder.done && fault === undefined) {
        let hasMore = false;
        try {
          hasMore = readAvailable(body, decoder);
        } catch (error) {
          fault = error ?? new Error('unknown');
        }
        // The parts decoded before a fault are delivered first.
        const decoded = parts.take();
        if (decoded.length > 0) startNext = undefined;
        for (const part of decoded) yield part;
        if (parts.takeThinking()) yield THINKING;
        if (fault !== undefined || decoder.done) break;
        if (decoder.isFinished && (endsAt === undefined || decoded.length > 0)) {
          startNext = undefined;
          if (endsAt === undefined) yield FINISHING;
          endsAt = performance.now() + FINISH_TIMEOUT_MS;
        }
        const remainingMs = endsAt === undefined ? undefined : endsAt - performance.now();
        if (remainingMs !== undefined && remainingMs <= 0) break;
        if (hasMore) continue;
        if (await waitForData(remainingMs)) break;
        try {
          isOver = hasEnded(body);
          if (isOver) decoder.end();
        } catch (error) {
          fault = error ?? new Error('unknown');
        }
      }
      fault = fault === undefined ? undefined : networkError(fault, 'in_body');
      const hasFailed = fault !== undefined && !(decoder.isFinished && isConnectionFault(fault));
      const finish = hasFailed ? undefined : decoder.finish();
      const last = parts.flush();
      if (last.length > 0) startNext = undefined;
      for (const part of last) yield part;
      if (finish === undefined) throw fault;
      yield finish;
      return;
    } catch (error) {
      fault = error;
    } finally {
      call.release();
      if (body !== undefined) releaseBody(body, decoder.done);
    }
    const isKeyFault = call.failed(fault);
    call = isKeyFault ? startNext?.() : undefined;
    if (call === undefined) throw fault;
  }
}

const NO_CALL: StartCall = () => undefined;

/** Codes of faults that say nothing about an answer whose finish reason has arrived. */
const CONNECTION_FAULTS: ReadonlySet<string> = new Set([
  'upstream_truncated',
  'upstream_protocol',
  'upstream_unreachable',
  'upstream_timeout',
]);

function isConnectionFault(fault: unknown): boolean {
  return fault instanceof ProviderError && CONNECTION_FAULTS.has(fault.code);
}

/**
 * Decodes the buffered bytes of the body, up to about its high-water mark. Newer versions of Node return the buffer
 * in the chunks that were received; one part per chunk would mean one write per chunk.
 *
 * Returns false after a read that returned null: only then the body emits 'readable' and 'end'.
 */
function readAvailable(body: Body, decoder: AnswerDecoder): boolean {
  let bytesRead = 0;
  while (bytesRead < body.readableHighWaterMark && !decoder.done) {
    const chunk: Buffer | null = body.read();
    if (chunk === null) return false;
    decoder.push(chunk);
    bytesRead += chunk.length;
  }
  return true;
}

/**
 * Returns a function that waits for an event of the body, at most `ms` milliseconds, and resolves to true if that time
 * has passed. An event since the last call resolves it at once. Replaces `for await`, which would add a second async
 * generator to every read.
 */
function createDataWaiter(body: Body): (ms: number | undefined) => Promise<boolean> {
  let settle: ((isTimeout: boolean) => void) | undefined;
  let hasEvent = false;
  let timer: NodeJS.Timeout | undefined;
  const wake = () => {
    if (settle === undefined) hasEvent = true;
    settle?.(false);
    settle = undefined;
    clearTimeout(timer);
  };
  body.on('readable', wake).on('end', wake).on('error', wake).on('close', wake);

  return (ms) =>
    new Promise((resolve) => {
      if (hasEvent || body.readableEnded || body.destroyed) {
        hasEvent = false;
        resolve(false);
        return;
      }
      settle = resolve;
      if (ms === undefined) return;
      timer = setTimeout(() => {
        settle = undefined;
        resolve(true);
      }, ms);
    });
}

/** Returns true if the body has ended. @throws the error of the body, also one for a body that was cut */
function hasEnded(body: Body): boolean {
  if (body.errored) throw body.errored;
  if (body.readableEnded) return true;
  if (body.destroyed) throw truncatedError();
  return false;
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
