import type { ChatRequest, Provider } from './types.ts';
import { openAIChatBody, unsupportedInChat } from './wire/openai-body.ts';
import { createOpenAIChatDecoder } from './wire/openai-chat.ts';
import { createHttpProvider, type Dialect, type ProviderOptions } from './wire/provider.ts';
import { responsesBody } from './wire/responses-body.ts';
import { createResponsesDecoder } from './wire/responses-stream.ts';
import { OPENAI_TOOL_IDS } from './wire/tool-ids.ts';
import { unsupportedOption } from './wire/unsupported.ts';

const DIALECT = {
  maxTokensField: 'max_completion_tokens',
  streamOptions: true,
  files: 'data',
  toolIds: OPENAI_TOOL_IDS,
} as const;

/**
 * Creates a provider for Azure OpenAI or Foundry: Chat Completions, or Responses if `api` says so, with the key in
 * `api-key`. The base URL and `apiVersion` select the version:
 *
 * - `https://<resource>.openai.azure.com` without `apiVersion`: the v1 API, where `model` is the deployment
 * - the same base URL with `apiVersion`: the older API, which has the deployment in the path; Responses has it in the body
 * - `https://<resource>.services.ai.azure.com/models` with `apiVersion`: the models of Foundry
 */
export function createAzure(options: ProviderOptions): Provider {
  const { api = 'chat', apiVersion } = options;
  const url = new URL(options.baseUrl);
  const isBareHost = url.pathname === '/';
  if (isBareHost) url.pathname = apiVersion === undefined ? '/openai/v1' : '/openai';

  const query = apiVersion === undefined ? '' : `?api-version=${encodeURIComponent(apiVersion)}`;
  const chatPath = ({ model }: ChatRequest): string => {
    const hasDeployment = isBareHost && apiVersion !== undefined;
    return `${hasDeployment ? `/deployments/${encodeURIComponent(model)}` : ''}/chat/completions${query}`;
  };
  const dialect: Pick<Dialect, 'call' | 'unsupported' | 'createDecoder'> =
    api === 'responses'
      ? {
          call: (request) => ({
            path: `/responses${query}`,
            body: responsesBody(request, { reasoningSummaries: true }),
          }),
          unsupported: (request) => unsupportedOption(request, 'responses'),
          createDecoder: createResponsesDecoder,
        }
      : {
          call: (request) => ({ path: chatPath(request), body: openAIChatBody(request, DIALECT) }),
          unsupported: (request) => unsupportedOption(request, 'chat') ?? unsupportedInChat(request, DIALECT),
          createDecoder: (parts) => createOpenAIChatDecoder(parts),
        };

  return createHttpProvider(
    { ...options, baseUrl: url.href },
    { contentType: 'text/event-stream', authorization: (apiKey) => ({ 'api-key': apiKey }), ...dialect },
  );
}
