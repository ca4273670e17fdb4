import type { ChatRequest, Provider, RequestSettings } from '../types.ts';
import { type ApiKeyOptions, createApiKeys } from './api-keys.ts';
import { type Body, createUpstream, type UpstreamOptions } from './http.ts';
import type { Anomaly, PartBuffer } from './parts.ts';
import { checkUrls, type LookupAddresses } from './question-urls.ts';
import { type AnswerDecoder, readAnswer, type StartCall } from './read-answer.ts';

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

  /** Returns a function that sends the request with one key after the other. */
  const createCalls = (request: ChatRequest, signal: AbortSignal): StartCall => {
    const { path, body } = dialect.call(request);
    const { model, traceHeaders } = request;
    const used: string[] = [];
    const urlCheck = options.checkUrls ? checkUrls(request, signal, options.lookupAddresses) : undefined;
    return () => {
      const isFirst = used.length === 0;
      const keyUse = isFirst ? keys.use(model) : keys.another(model, used);
      if (keyUse === undefined && !isFirst) return undefined;
      if (keyUse !== undefined) used.push(keyUse.key);
      const authorization = keyUse ? dialect.authorization(keyUse.key) : {};
      const headers = { ...traceHeaders, ...dialect.headers, ...options.headers, ...authorization };
      const post = () => upstream.post(path, headers, body, signal);
      const response = urlCheck === undefined ? post() : urlCheck.then(post);
      if (keyUse === undefined) return { body: response, failed: () => false, release: () => {} };
      const accept = (readable: Body) => {
        keyUse.accepted();
        return readable;
      };
      return { body: response.then(accept), failed: keyUse.failed, release: keyUse.release };
    };
  };

  return {
    name: options.name,
    cooldown: keys.cooldown,
    setApiKeys: keys.replace,
    settings: options.settings,
    ...(dialect.unsupported && { unsupported: dialect.unsupported }),
    stream: (request, signal) =>
      readAnswer(
        whenFirstCalled(() => createCalls(request, signal)),
        dialect.createDecoder,
        options.onAnomaly,
      ),
    close: upstream.close,
  };
}

/** Returns calls that are created by the first one. A request that the API cannot express then fails as a call does. */
function whenFirstCalled(create: () => StartCall): StartCall {
  let start: StartCall | undefined;
  return () => {
    start ??= create();
    return start();
  };
}
