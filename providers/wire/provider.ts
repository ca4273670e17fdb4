import type { ChatRequest, Provider, RequestSettings } from '../types.ts';
import { type ApiKeyOptions, createApiKeys } from './api-keys.ts';
import { createUpstream, type UpstreamOptions } from './http.ts';
import type { Anomaly, PartBuffer } from './parts.ts';
import { checkUrls, type LookupAddresses } from './question-urls.ts';
import { type AnswerDecoder, readAnswer, type UpstreamCall } from './read-answer.ts';

export interface ProviderOptions extends UpstreamOptions, ApiKeyOptions {
  readonly name: string;
  /** API keys, one of which is used for each call. Empty for servers that require no key. */
  readonly apiKeys: readonly string[];
  /** API version; only for Azure. */
  readonly apiVersion?: string | undefined;
  /** API that the provider speaks, if its type has a choice. */
  readonly api?: 'responses' | 'chat' | undefined;
  /** Headers of every call. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** Number of `temperature` and `top_p` the models accept; only for Anthropic. */
  readonly sampling?: 'both' | 'one' | 'none' | undefined;
  readonly settings?: RequestSettings | undefined;
  /** True to refuse URLs in a question that lead to private addresses. */
  readonly checkUrls?: boolean | undefined;
  /** Resolves the hosts of these URLs; by DNS if absent. */
  readonly lookupAddresses?: LookupAddresses | undefined;
  /** Called for each value in an answer that the API does not describe. */
  onAnomaly?(kind: Anomaly): void;
}

/** The differences between the APIs of providers. */
export interface Dialect {
  /** Media type of the response stream. */
  readonly contentType: string;
  /** Returns the headers that contain the key. */
  authorization(apiKey: string): Record<string, string>;
  /**
   * Converts a request to the API's format. `path` is relative to the base URL.
   * @throws ProviderError for a request that the API cannot express
   */
  call(request: ChatRequest): { readonly path: string; readonly body: unknown };
  /** As in `Provider`. */
  unsupported?(request: ChatRequest): string | undefined;
  /** Creates the decoder of one answer, which writes to `parts`. */
  createDecoder(parts: PartBuffer): AnswerDecoder;
  /** Headers for every call. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** Returns the `Authorization` header of a bearer key. */
export const bearer = (apiKey: string): Record<string, string> => ({ authorization: `Bearer ${apiKey}` });

/**
 * Creates a provider that makes one POST request per call.
 * @throws TypeError if the base URL is not a valid URL
 */
export function createHttpProvider(options: ProviderOptions, dialect: Dialect): Provider {
  const upstream = createUpstream(options, dialect.contentType);
  const keys = createApiKeys(options.apiKeys, options);

  const startCall = (request: ChatRequest, signal: AbortSignal): UpstreamCall => {
    const { path, body } = dialect.call(request);
    const keyUse = keys.use(request.model);
    const authorization = keyUse ? dialect.authorization(keyUse.key) : {};
    const headers = { ...request.traceHeaders, ...dialect.headers, ...options.headers, ...authorization };
    const urlCheck = options.checkUrls ? checkUrls(request, signal, options.lookupAddresses) : undefined;
    const post = () => upstream.post(path, headers, body, signal);
    const response = urlCheck === undefined ? post() : urlCheck.then(post);
    if (keyUse === undefined) return { body: response, failed: (fault) => fault, release: () => {} };
    const responseBody = response.then(
      (readable) => {
        keyUse.accepted();
        return readable;
      },
      (fault) => {
        throw keyUse.failed(fault);
      },
    );
    return { body: responseBody, failed: keyUse.failedInBody, release: keyUse.release };
  };

  return {
    name: options.name,
    cooldown: keys.cooldown,
    setApiKeys: keys.replace,
    settings: options.settings,
    ...(dialect.unsupported && { unsupported: dialect.unsupported }),
    stream: (request, signal) => readAnswer(() => startCall(request, signal), dialect.createDecoder, options.onAnomaly),
    close: upstream.close,
  };
}
