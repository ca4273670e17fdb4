import type { Provider } from '../types.ts';
import { createUpstream, type UpstreamOptions } from './http.ts';
import { createOpenAIChatDecoder, type OpenAIChatDialect, openAIChatBody } from './openai-chat.ts';
import { readAnswer } from './read-answer.ts';

export interface OpenAIProviderOptions extends UpstreamOptions {
  readonly name: string;
  /** Used in turn; none for servers that ask for none. */
  readonly apiKeys: readonly string[];
}

/** A provider for any server with `POST {baseUrl}/chat/completions` and a bearer key. */
export function createOpenAIProvider(options: OpenAIProviderOptions, dialect: OpenAIChatDialect): Provider {
  const upstream = createUpstream(options, 'text/event-stream');
  let turn = 0;

  const authorization = (): Record<string, string> => {
    if (options.apiKeys.length === 0) return {};
    turn = (turn + 1) % options.apiKeys.length;
    return { authorization: `Bearer ${options.apiKeys[turn]}` };
  };

  return {
    name: options.name,
    stream: (request, signal) =>
      readAnswer(
        () => upstream.post('/chat/completions', authorization(), openAIChatBody(request, dialect), signal),
        (parts) => createOpenAIChatDecoder(parts, dialect),
      ),
    close: upstream.close,
  };
}
