import type { ChatRequest, Provider } from './types.ts';
import { openAIChatBody } from './wire/openai-body.ts';
import { createOpenAIChatDecoder } from './wire/openai-chat.ts';
import { createHttpProvider, type ProviderOptions } from './wire/provider.ts';

const DIALECT = { maxTokensField: 'max_completion_tokens', streamOptions: true } as const;

/**
 * Azure OpenAI and Foundry: Chat Completions under three addresses, the key in `api-key`.
 *
 * - `https://<resource>.openai.azure.com` alone: the v1 API, whose `model` is the deployment;
 * - the same with `apiVersion`: the older one, with the deployment in the path;
 * - `https://<resource>.services.ai.azure.com/models` with `apiVersion`: Foundry's models.
 */
export function createAzure(options: ProviderOptions): Provider {
  const { apiVersion } = options;
  const url = new URL(options.baseUrl);
  const bare = url.pathname === '/';
  if (bare) url.pathname = apiVersion === undefined ? '/openai/v1' : '/openai';

  const pathFor = ({ model }: ChatRequest): string => {
    if (apiVersion === undefined) return '/chat/completions';
    const deployment = bare ? `/deployments/${encodeURIComponent(model)}` : '';
    return `${deployment}/chat/completions?api-version=${encodeURIComponent(apiVersion)}`;
  };

  return createHttpProvider(
    { ...options, baseUrl: url.href },
    {
      contentType: 'text/event-stream',
      authorization: (apiKey) => ({ 'api-key': apiKey }),
      call: (request) => ({ path: pathFor(request), body: openAIChatBody(request, DIALECT) }),
      createDecoder: (parts) => createOpenAIChatDecoder(parts),
    },
  );
}
