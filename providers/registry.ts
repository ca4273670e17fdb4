import { ANTHROPIC_BASE_URL, createAnthropic } from './anthropic.ts';
import { createAzure } from './azure.ts';
import { BELLA_BASE_URL, createBella } from './bella.ts';
import { createDemo } from './demo.ts';
import { createGemini, createVertex, GEMINI_BASE_URL } from './gemini.ts';
import { createOllama, OLLAMA_BASE_URL } from './ollama.ts';
import { createOpenAICompatible, PRESETS } from './openai-compatible.ts';
import type { Provider } from './types.ts';
import type { ProviderOptions } from './wire/provider.ts';

/** The list of all provider types. A new provider needs a file in this folder and an entry here. */

export interface ProviderType {
  /** Default base URL. If absent, the configuration must set one. */
  readonly baseUrl?: string;
  /** True for a provider that runs in this process and has no base URL. */
  readonly embedded?: true;
  /** Environment variable that holds the key and enables the provider. */
  readonly apiKeyEnv?: string;
  /** Environment variable that sets the base URL. It also enables a provider without `apiKeyEnv`. */
  readonly baseUrlEnv?: string;
  create(options: ProviderOptions): Provider;
}

const presetTypes = Object.entries(PRESETS).map(([name, preset]): [string, ProviderType] => {
  const { baseUrl, apiKeyEnv, ...dialect } = preset;
  const create = (options: ProviderOptions) => createOpenAICompatible(options, dialect);
  return [name, { ...(baseUrl && { baseUrl }), ...(apiKeyEnv && { apiKeyEnv }), create }];
});

export const PROVIDER_TYPES: Readonly<Record<string, ProviderType>> = {
  ...Object.fromEntries(presetTypes),
  bella: { baseUrl: BELLA_BASE_URL, apiKeyEnv: 'BELLA_API_KEY', baseUrlEnv: 'BELLA_BASE_URL', create: createBella },
  anthropic: { baseUrl: ANTHROPIC_BASE_URL, apiKeyEnv: 'ANTHROPIC_API_KEY', create: createAnthropic },
  gemini: { baseUrl: GEMINI_BASE_URL, apiKeyEnv: 'GEMINI_API_KEY', create: createGemini },
  vertex: { create: createVertex },
  azure: { apiKeyEnv: 'AZURE_OPENAI_API_KEY', baseUrlEnv: 'AZURE_OPENAI_ENDPOINT', create: createAzure },
  ollama: { baseUrl: OLLAMA_BASE_URL, baseUrlEnv: 'OLLAMA_BASE_URL', create: createOllama },
  'openai-compatible': { create: createOpenAICompatible },
  demo: { embedded: true, create: ({ name }) => createDemo(name) },
};
