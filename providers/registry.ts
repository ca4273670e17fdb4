import { ANTHROPIC_BASE_URL, createAnthropic } from './anthropic.ts';
import { createAzure } from './azure.ts';
import { BELLA_BASE_URL, createBella } from './bella.ts';
import { createDemo } from './demo.ts';
import { createGemini, createVertex, GEMINI_BASE_URL } from './gemini.ts';
import { createOllama, OLLAMA_BASE_URL } from './ollama.ts';
import { createOpenAICompatible, PRESETS } from './openai-compatible.ts';
import type { Provider } from './types.ts';
import type { ProviderOptions } from './wire/provider.ts';

/** The one list of provider types. A new provider is a file beside this one and a line here. */

export interface ProviderType {
  /** Where it lives unless the configuration says otherwise; without one the configuration has to. */
  readonly baseUrl?: string;
  /** Whether it has no address at all. */
  readonly embedded?: true;
  /** The environment variable whose presence switches the provider on. */
  readonly apiKeyEnv?: string;
  /** The environment variable that moves it, and, where no key has to, switches it on. */
  readonly baseUrlEnv?: string;
  create(options: ProviderOptions): Provider;
}

const presets = Object.entries(PRESETS).map(([name, preset]): [string, ProviderType] => {
  const { baseUrl, apiKeyEnv, ...dialect } = preset;
  const create = (options: ProviderOptions) => createOpenAICompatible(options, dialect);
  return [name, { ...(baseUrl && { baseUrl }), ...(apiKeyEnv && { apiKeyEnv }), create }];
});

export const PROVIDER_TYPES: Readonly<Record<string, ProviderType>> = {
  ...Object.fromEntries(presets),
  bella: { baseUrl: BELLA_BASE_URL, apiKeyEnv: 'BELLA_API_KEY', baseUrlEnv: 'BELLA_BASE_URL', create: createBella },
  anthropic: { baseUrl: ANTHROPIC_BASE_URL, apiKeyEnv: 'ANTHROPIC_API_KEY', create: createAnthropic },
  gemini: { baseUrl: GEMINI_BASE_URL, apiKeyEnv: 'GEMINI_API_KEY', create: createGemini },
  vertex: { create: createVertex },
  azure: { apiKeyEnv: 'AZURE_OPENAI_API_KEY', baseUrlEnv: 'AZURE_OPENAI_ENDPOINT', create: createAzure },
  ollama: { baseUrl: OLLAMA_BASE_URL, baseUrlEnv: 'OLLAMA_BASE_URL', create: createOllama },
  'openai-compatible': { create: createOpenAICompatible },
  demo: { embedded: true, create: ({ name }) => createDemo(name) },
};
