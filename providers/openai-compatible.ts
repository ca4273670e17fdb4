import type { Provider } from './types.ts';
import { splitReasoningTags } from './wire/leading-reasoning.ts';
import { type OpenAIChatDialect, openAIChatBody, unsupportedInChat } from './wire/openai-body.ts';
import { createOpenAIChatDecoder } from './wire/openai-chat.ts';
import { bearer, createHttpProvider, type ProviderOptions } from './wire/provider.ts';
import { responsesBody } from './wire/responses-body.ts';
import { createResponsesDecoder } from './wire/responses-stream.ts';
import { MISTRAL_TOOL_IDS, OPENAI_TOOL_IDS } from './wire/tool-ids.ts';
import { unsupportedOption } from './wire/unsupported.ts';

/** Settings of a known service with a Chat Completions API. With a preset, a user configures only the key. */
export interface Preset extends CompatibleDialect {
  /** Absent if the address differs by account. */
  readonly baseUrl?: string;
  /** Environment variable that holds the key and enables the provider. */
  readonly apiKeyEnv?: string;
}

export interface CompatibleDialect extends OpenAIChatDialect {
  /** Path behind the base URL; `/chat/completions` if absent. */
  readonly path?: string;
  /** True if the text begins with reasoning in `<reasoning>` tags. */
  readonly reasoningTags?: boolean;
  /** API without a setting for it; `chat` if absent. */
  readonly api?: 'responses' | 'chat';
  /** True to request summaries of the reasoning in the Responses API. */
  readonly reasoningSummaries?: boolean;
}

const DEFAULT_DIALECT: CompatibleDialect = { maxTokensField: 'max_tokens', streamOptions: true };

export const PRESETS: Readonly<Record<string, Preset>> = {
  // Newer models reject `max_tokens`.
  openai: {
    ...DEFAULT_DIALECT,
    baseUrl: 'https://api.openai.com/v1',
    apiKeyEnv: 'OPENAI_API_KEY',
    maxTokensField: 'max_completion_tokens',
    files: 'data',
    toolIds: OPENAI_TOOL_IDS,
    api: 'responses',
    reasoningSummaries: true,
  },
  deepseek: {
    ...DEFAULT_DIALECT,
    baseUrl: 'https://api.deepseek.com',
    apiKeyEnv: 'DEEPSEEK_API_KEY',
    jsonSchema: false,
  },
  dashscope: {
    ...DEFAULT_DIALECT,
    baseUrl: 'https://dashscope.aliyuncs.com/compatible-mode/v1',
    apiKeyEnv: 'DASHSCOPE_API_KEY',
  },
  moonshot: { ...DEFAULT_DIALECT, baseUrl: 'https://api.moonshot.cn/v1', apiKeyEnv: 'MOONSHOT_API_KEY' },
  // Sends usage in the finish chunk without a request for it, and rejects unknown fields.
  mistral: {
    ...DEFAULT_DIALECT,
    baseUrl: 'https://api.mistral.ai/v1',
    apiKeyEnv: 'MISTRAL_API_KEY',
    streamOptions: false,
    toolIds: MISTRAL_TOOL_IDS,
    names: false,
    seedField: 'random_seed',
  },
  groq: { ...DEFAULT_DIALECT, baseUrl: 'https://api.groq.com/openai/v1', apiKeyEnv: 'GROQ_API_KEY' },
  xai: { ...DEFAULT_DIALECT, baseUrl: 'https://api.x.ai/v1', apiKeyEnv: 'XAI_API_KEY' },
  openrouter: {
    ...DEFAULT_DIALECT,
    baseUrl: 'https://openrouter.ai/api/v1',
    apiKeyEnv: 'OPENROUTER_API_KEY',
    files: 'any',
    cacheControl: true,
  },
  cohere: { ...DEFAULT_DIALECT, baseUrl: 'https://api.cohere.ai/compatibility/v1', apiKeyEnv: 'COHERE_API_KEY' },
  together: { ...DEFAULT_DIALECT, baseUrl: 'https://api.together.xyz/v1' },
  huggingface: { ...DEFAULT_DIALECT, baseUrl: 'https://router.huggingface.co/v1' },
  // Sends usage in every chunk without a request for it.
  perplexity: { ...DEFAULT_DIALECT, baseUrl: 'https://api.perplexity.ai', streamOptions: false },
  writer: { ...DEFAULT_DIALECT, baseUrl: 'https://api.writer.com/v1', path: '/chat' },
  zai: { ...DEFAULT_DIALECT, baseUrl: 'https://api.z.ai/api/paas/v4' },
  avian: { ...DEFAULT_DIALECT, baseUrl: 'https://api.avian.io/v1' },
  // `https://bedrock-runtime.<region>.amazonaws.com/openai/v1`, with a Bedrock API key
  bedrock: { ...DEFAULT_DIALECT, reasoningTags: true },
  // `https://api.cloudflare.com/client/v4/accounts/<id>/ai/v1`
  cloudflare: DEFAULT_DIALECT,
  // `https://<workspace>/serving-endpoints`
  databricks: DEFAULT_DIALECT,
  // `https://<account>.snowflakecomputing.com/api/v2/cortex/v1`
  snowflake: DEFAULT_DIALECT,
  gpustack: DEFAULT_DIALECT,
  vllm: { ...DEFAULT_DIALECT, baseUrl: 'http://127.0.0.1:8000/v1' },
  'llama.cpp': { ...DEFAULT_DIALECT, baseUrl: 'http://127.0.0.1:8080/v1' },
};

/** Creates a provider for any server with `POST {baseUrl}/chat/completions` or `POST {baseUrl}/responses`. */
export function createOpenAICompatible(
  options: ProviderOptions,
  dialect: CompatibleDialect = DEFAULT_DIALECT,
): Provider {
  const { api = dialect.api ?? 'chat' } = options;
  const common = { contentType: 'text/event-stream', authorization: bearer };
  if (api === 'responses') {
    const { reasoningSummaries = false } = dialect;
    return createHttpProvider(options, {
      ...common,
      call: (request) => ({ path: '/responses', body: responsesBody(request, { reasoningSummaries }) }),
      unsupported: (request) => unsupportedOption(request, 'responses'),
      createDecoder: createResponsesDecoder,
    });
  }
  return createHttpProvider(options, {
    ...common,
    call: (request) => ({ path: dialect.path ?? '/chat/completions', body: openAIChatBody(request, dialect) }),
    unsupported: (request) => unsupportedOption(request, 'chat') ?? unsupportedInChat(request, dialect),
    createDecoder: (parts) =>
      createOpenAIChatDecoder(parts, dialect.reasoningTags ? { wrapParts: splitReasoningTags } : {}),
  });
}
