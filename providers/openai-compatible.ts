import type { Provider } from './types.ts';
import { type OpenAIChatDialect, openAIChatBody } from './wire/openai-body.ts';
import { createOpenAIChatDecoder } from './wire/openai-chat.ts';
import { bearer, createHttpProvider, type ProviderOptions } from './wire/provider.ts';

/** What is known of a service that speaks Chat Completions, so that a key is all it needs. */
export interface Preset extends CompatibleDialect {
  /** Absent where it differs from account to account. */
  readonly baseUrl?: string;
  /** The environment variable whose presence switches it on. */
  readonly apiKeyEnv?: string;
}

export interface CompatibleDialect extends OpenAIChatDialect {
  /** What stands behind the base URL, unless it is `/chat/completions`. */
  readonly path?: string;
}

const USUAL: CompatibleDialect = { maxTokensField: 'max_tokens', streamOptions: true };

export const PRESETS: Readonly<Record<string, Preset>> = {
  // Newer models refuse `max_tokens`.
  openai: {
    ...USUAL,
    baseUrl: 'https://api.openai.com/v1',
    apiKeyEnv: 'OPENAI_API_KEY',
    maxTokensField: 'max_completion_tokens',
  },
  deepseek: { ...USUAL, baseUrl: 'https://api.deepseek.com', apiKeyEnv: 'DEEPSEEK_API_KEY' },
  dashscope: {
    ...USUAL,
    baseUrl: 'https://dashscope.aliyuncs.com/compatible-mode/v1',
    apiKeyEnv: 'DASHSCOPE_API_KEY',
  },
  moonshot: { ...USUAL, baseUrl: 'https://api.moonshot.cn/v1', apiKeyEnv: 'MOONSHOT_API_KEY' },
  // Counts tokens in the finish chunk unasked, and refuses fields that it does not know.
  mistral: { ...USUAL, baseUrl: 'https://api.mistral.ai/v1', apiKeyEnv: 'MISTRAL_API_KEY', streamOptions: false },
  groq: { ...USUAL, baseUrl: 'https://api.groq.com/openai/v1', apiKeyEnv: 'GROQ_API_KEY' },
  xai: { ...USUAL, baseUrl: 'https://api.x.ai/v1', apiKeyEnv: 'XAI_API_KEY' },
  openrouter: { ...USUAL, baseUrl: 'https://openrouter.ai/api/v1', apiKeyEnv: 'OPENROUTER_API_KEY' },
  cohere: { ...USUAL, baseUrl: 'https://api.cohere.ai/compatibility/v1', apiKeyEnv: 'COHERE_API_KEY' },
  together: { ...USUAL, baseUrl: 'https://api.together.xyz/v1' },
  huggingface: { ...USUAL, baseUrl: 'https://router.huggingface.co/v1' },
  // Counts on every chunk unasked.
  perplexity: { ...USUAL, baseUrl: 'https://api.perplexity.ai', streamOptions: false },
  writer: { ...USUAL, baseUrl: 'https://api.writer.com/v1', path: '/chat' },
  zai: { ...USUAL, baseUrl: 'https://api.z.ai/api/paas/v4' },
  avian: { ...USUAL, baseUrl: 'https://api.avian.io/v1' },
  // `https://bedrock-runtime.<region>.amazonaws.com/openai/v1`, with a Bedrock API key
  bedrock: USUAL,
  // `https://api.cloudflare.com/client/v4/accounts/<id>/ai/v1`
  cloudflare: USUAL,
  // `https://<workspace>/serving-endpoints`
  databricks: USUAL,
  // `https://<account>.snowflakecomputing.com/api/v2/cortex/v1`
  snowflake: USUAL,
  gpustack: USUAL,
  vllm: { ...USUAL, baseUrl: 'http://127.0.0.1:8000/v1' },
  'llama.cpp': { ...USUAL, baseUrl: 'http://127.0.0.1:8080/v1' },
};

/** Any server with `POST {baseUrl}/chat/completions`. */
export function createOpenAICompatible(options: ProviderOptions, dialect: CompatibleDialect = USUAL): Provider {
  return createHttpProvider(options, {
    contentType: 'text/event-stream',
    authorization: bearer,
    call: (request) => ({ path: dialect.path ?? '/chat/completions', body: openAIChatBody(request, dialect) }),
    createDecoder: (parts) => createOpenAIChatDecoder(parts),
  });
}
