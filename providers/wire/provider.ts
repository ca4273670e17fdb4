import type { ChatRequest, Provider } from '../types.ts';
import { createUpstream, type UpstreamOptions } from './http.ts';
import type { PartBuffer } from './parts.ts';
import { type AnswerDecoder, readAnswer } from './read-answer.ts';

export interface ProviderOptions extends UpstreamOptions {
  readonly name: string;
  /** Used in turn; none for servers that ask for none. */
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
  let turn = 0;

  const authorization = (): Record<string, string> => {
    if (options.apiKeys.length === 0) return {};
    turn = (turn + 1) % options.apiKeys.length;
    return dialect.authorization(options.apiKeys[turn] as string);
  };

  const open = (request: ChatRequest, signal: AbortSignal) => {
    const { path, body } = dialect.call(request);
    return upstream.post(path, { ...dialect.headers, ...authorization() }, body, signal);
  };

  return {
    name: options.name,
    stream: (request, signal) => readAnswer(async () => open(request, signal), dialect.createDecoder),
    close: upstream.close,
  };
}
