import { decodeContext, encodeContext } from '../stream-context.ts';

/** What the events of a response depend on besides the log of its answer. Kept with the stream, so all replicas have it. */
export interface ResponseContext {
  /** Unix time in seconds at which the response was created. */
  readonly createdAt: number;
  /** True if the response runs without a reader. Its first event says that it is queued. */
  readonly background: boolean;
  /** True if the output has the state of the provider: `include` has `reasoning.encrypted_content`. */
  readonly hasState: boolean;
  /** Hash of the fields that the response repeats, if the request had an idempotency key. */
  readonly fingerprint?: string | undefined;
}

export function encodeResponseContext({ createdAt, background, hasState, fingerprint }: ResponseContext): string {
  return encodeContext('responses', { createdAt, background, hasState, fingerprint });
}

/** Returns the context of a stream; undefined for a stream that another API has started. */
export function responseContextOf({ context }: { readonly context?: string | undefined }): ResponseContext | undefined {
  return decodeContext<ResponseContext>('responses', context);
}
