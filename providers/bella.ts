import type { Provider } from './types.ts';
import { openAIChatBody } from './wire/openai-body.ts';
import { createOpenAIChatDecoder } from './wire/openai-chat.ts';
import { bearer, createHttpProvider, type ProviderOptions } from './wire/provider.ts';

/** The public trial; self-hosted gateways are given by `baseUrl`. */
export const BELLA_BASE_URL = 'https://api.bella.top/v1';

/**
 * Bella OpenAPI, LianjiaTech's gateway: Chat Completions with a bearer key. Read from its source
 * (bella-openapi @219850e): frames come as `data:` without a space, `[DONE]` only if the channel
 * behind it sent one, usage without being asked for; `max_completion_tokens` is no field of its own;
 * a channel set to merge reasoning sends it a second time as text.
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
      createDecoder: (parts) => createOpenAIChatDecoder(parts, { dropsCopiedReasoning: true }),
    },
  );
}

/** Bella's own clients are configured with the bare host as often as with `/v1`. */
function withApiPath(baseUrl: string): string {
  const url = new URL(baseUrl);
  if (url.pathname === '/') url.pathname = '/v1';
  return url.href;
}
