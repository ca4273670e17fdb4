import type { ChatRequest, Provider } from './types.ts';
import { openAIChatBody } from './wire/openai-body.ts';
import { createOpenAIChatDecoder } from './wire/openai-chat.ts';
import { createHttpProvider, type ProviderOptions } from './wire/provider.ts';

const DIALECT = { maxTokensField: 'max_completion_tokens', streamOptions: true } as const;

/**
 * Creates a provider for Azure OpenAI or Foundry: Chat Completions with the key in `api-key`. The base URL
 * and `apiVersion` select the API:
 *
 * - `https://<resource>.openai.azure.com` without `apiVersion`: the v1 API, where `model` is the deployment
 * - the same base URL with `apiVersion`: the older API, which has the deployment in the path
 * - `https://<resource>.services.ai.azure.com/models` with `apiVersion`: the models of Foundry
 */
export function createAzure(options: ProviderOptions): Provider {
  const { apiVersion } = options;
  const url = new URL(options.baseUrl);
  const isBareHost = url.pathname === '/';
  if (isBareHost) url.pathname = apiVersion === undefined ? '/openai/v1' : '/openai';

  const pathFor = ({ model }: ChatRequest): string => {
    if (apiVersion === undefined) return '/chat/completions';
    const deployment = isBareHost ? `/deployments/${encodeURIComponent(model)}` : '';
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
