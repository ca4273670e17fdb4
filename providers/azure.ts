import type { ChatRequest, Provider } from './types.ts';
import { type OpenAIChatDialect, openAIChatBody, unsupportedByChat } from './wire/openai-body.ts';
import { createOpenAIChatDecoder } from './wire/openai-chat.ts';
import { createHttpProvider, type ProviderOptions } from './wire/provider.ts';
import { responsesBody } from './wire/responses-body.ts';
import { createResponsesDecoder } from './wire/responses-stream.ts';
import { unsupportedOption } from './wire/unsupported.ts';

const DIALECT: OpenAIChatDialect = {
  maxTokensField: 'max_completion_tokens',
  streamOptions: true,
  files: 'data',
};

/**
 * Creates a provider for Azure OpenAI or Foundry: Chat Completions, or Responses if `api` says so, with the key in
 * `api-key`. The base URL and `apiVersion` select the address:
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

  const version = apiVersion === undefined ? '' : `?api-version=${encodeURIComponent(apiVersion)}`;
  const pathFor = ({ model }: ChatRequest): string => {
    if (apiVersion === undefined) return '/chat/completions';
    const deployment = isBareHost ? `/deployments/${encodeURIComponent(model)}` : '';
    return `${deployment}/chat/completions${version}`;
  };

  const common = {
    contentType: 'text/event-stream',
    authorization: (apiKey: string) => ({ 'api-key': apiKey }),
  };
  if (options.api === 'responses') {
    return createHttpProvider(
      { ...options, baseUrl: url.href },
      {
        ...common,
        unsupported: (request) => unsupportedOption(request, 'responses'),
        call: (request) => ({ path: `/responses${version}`, body: responsesBody(request) }),
        createDecoder: createResponsesDecoder,
      },
    );
  }
  return createHttpProvider(
    { ...options, baseUrl: url.href },
    {
      ...common,
      unsupported: (request) => unsupportedByChat(request, DIALECT),
      call: (request) => ({ path: pathFor(request), body: openAIChatBody(request, DIALECT) }),
      createDecoder: (parts) => createOpenAIChatDecoder(parts),
    },
  );
}
