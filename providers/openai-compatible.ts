import type { Provider } from './types.ts';
import type { OpenAIChatDialect } from './wire/openai-chat.ts';
import { createOpenAIProvider, type OpenAIProviderOptions } from './wire/openai-provider.ts';

/** What is known of a service that speaks Chat Completions, so that a key is all it needs. */
export interface Preset extends OpenAIChatDialect {
  readonly baseUrl: string;
  /** The environment variable whose presence switches it on; servers of one's own have none. */
  readonly apiKeyEnv?: string;
}

const USUAL: OpenAIChatDialect = { maxTokensField: 'max_tokens', streamOptions: true };

export const PRESETS = {
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
  vllm: { ...USUAL, baseUrl: 'http://127.0.0.1:8000/v1' },
  'llama.cpp': { ...USUAL, baseUrl: 'http://127.0.0.1:8080/v1' },
} as const satisfies Record<string, Preset>;

/** Any server with `POST {baseUrl}/chat/completions`. */
export function createOpenAICompatible(options: OpenAIProviderOptions, dialect: OpenAIChatDialect = USUAL): Provider {
  return createOpenAIProvider(options, dialect);
}
