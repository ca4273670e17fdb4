import type { Provider } from './types.ts';
import { dropRepeatedReasoning } from './wire/leading-reasoning.ts';
import { openAIChatBody, unsupportedInChat } from './wire/openai-body.ts';
import { createOpenAIChatDecoder } from './wire/openai-chat.ts';
import { bearer, createHttpProvider, type ProviderOptions } from './wire/provider.ts';
import { unsupportedOption } from './wire/unsupported.ts';

/** Address of the public trial. For a self-hosted gateway, set `baseUrl`. */
export const BELLA_BASE_URL = 'https://api.bella.top/v1';

/**
 * Creates a provider for Bella OpenAPI, the gateway of LianjiaTech: Chat Completions with a bearer key.
 * Differences from OpenAI, according to its source (bella-openapi@219850e):
 *
 * - Events have `data:` without a space.
 * - `[DONE]` is sent only if the channel, the upstream of the gateway, sent one.
 * - Usage is sent without a request for it.
 * - The API has no field `max_completion_tokens`.
 * - A channel that merges reasoning sends the reasoning a second time as text, in a fenced block.
 */
export function createBella(options: ProviderOptions): Provider {
  return createHttpProvider(
    { ...options, baseUrl: withApiPath(options.baseUrl) },
    {
      contentType: 'text/event-stream',
      authorization: bearer,
      call: (request) => ({
        path: '/chat/completions',
        body: openAIChatBody(request, { maxTokensField: 'max_tokens', streamOptions: false }),
      }),
      unsupported: (request) => unsupportedOption(request, 'chat') ?? unsupportedInChat(request, {}),
      createDecoder: (parts) => createOpenAIChatDecoder(parts, { wrapParts: dropRepeatedReasoning }),
    },
  );
}

/** Adds `/v1` to a base URL without a path. Bella's own clients accept the bare host, too. */
function withApiPath(baseUrl: string): string {
  const url = new URL(baseUrl);
  if (url.pathname === '/') url.pathname = '/v1';
  return url.href;
}
