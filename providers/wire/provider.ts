import type { ChatRequest, Provider } from '../types.ts';
import { type ApiKeyOptions, createApiKeys } from './api-keys.ts';
import { createUpstream, type UpstreamOptions } from './http.ts';
import type { PartBuffer } from './parts.ts';
import { type AnswerDecoder, type OpenedCall, readAnswer } from './read-answer.ts';

export interface ProviderOptions extends UpstreamOptions, ApiKeyOptions {
  readonly name: string;
  /** The one with the fewest calls is used; none for servers that ask for none. */
  readonly apiKeys: readonly string[];
  /** For Azure, whose older addresses have one. */
  readonly apiVersion?: string | undefined;
}

/** What sets one provider's API apart from another's. */
export interface Dialect {
  /** The media type of its streams. */
  readonly contentType: string;
  /** The headers that carry a key. */
  authorization(apiKey: string): Record<string, string>;
  /**
   * One question as its API wants it; `path` goes behind the base URL.
   * @throws ProviderError for a question that it cannot express
   */
  call(request: ChatRequest): { readonly path: string; readonly body: unknown };
  /** Turns the bytes of one answer into parts. */
  createDecoder(parts: PartBuffer): AnswerDecoder;
  /** Headers of every call. */
  readonly headers?: Readonly<Record<string, string>>;
}

export const bearer = (apiKey: string): Record<string, string> => ({ authorization: `Bearer ${apiKey}` });

/** A provider that is reached by one POST a question. */
export function createHttpProvider(options: ProviderOptions, dialect: Dialect): Provider {
  const upstream = createUpstream(options, dialect.contentType);
  const keys = createApiKeys(options.apiKeys, options);

  const startCall = (request: ChatRequest, signal: AbortSignal): OpenedCall => {
    const { path, body } = dialect.call(request);
    const lease = keys.use();
    const authorization = lease ? dialect.authorization(lease.key) : {};
    const call = upstream.post(path, { ...request.traceHeaders, ...dialect.headers, ...authorization }, body, signal);
    if (lease === undefined) return { opening: call, release: () => {} };
    const opening = call.then(
      (opened) => {
        lease.accepted();
        return opened;
      },
      (fault) => {
        throw lease.failed(fault);
      },
    );
    return { opening, release: lease.release };
  };

  return {
    name: options.name,
    cooldown: keys.cooldown,
    stream: (request, signal) => readAnswer(() => startCall(request, signal), dialect.createDecoder),
    close: upstream.close,
  };
}
