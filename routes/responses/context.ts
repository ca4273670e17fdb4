import { decodeContext, encodeContext } from '../stream-context.ts';

/** The context of a response: the data besides the log that its events depend on. Kept with the stream on all replicas. */
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
