import { isPrivateHost } from './addresses.ts';
import { ANTHROPIC_BASE_URL, createAnthropic } from './anthropic.ts';
import { createAzure } from './azure.ts';
import { BELLA_BASE_URL, createBella } from './bella.ts';
import { createDemo } from './demo.ts';
import { createGemini, createVertex, GEMINI_BASE_URL } from './gemini.ts';
import { createOllama, OLLAMA_BASE_URL } from './ollama.ts';
import { createOpenAICompatible, PRESETS } from './openai-compatible.ts';
import type { Provider } from './types.ts';
import type { ProviderOptions } from './wire/provider.ts';

export { createSocketBudget } from './wire/socket-budget.ts';

/** The list of all provider types. A new provider needs a file in this folder and an entry here. */

export interface ProviderType {
  /** Default base URL. If absent, the configuration must set one. */
  readonly baseUrl?: string;
  /** True for a provider that runs in this process and has no base URL. */
  readonly embedded?: true;
  /** Environment variable that holds the key and enables the provider. */
  readonly apiKeyEnv?: string;
  /**
   * Environment variables that set the base URL; the first that is set counts. The first also enables a provider
   * without `apiKeyEnv`.
   */
  readonly baseUrlEnv?: readonly string[];
  /** Path of a base URL that has none, because the variables of official SDKs leave it out. */
  readonly defaultPath?: string;
  /** True for a server that users run themselves. It may reach addresses that nobody else can. */
  readonly selfHosted?: true;
  create(options: ProviderOptions): Provider;
}

/** Presets of servers that users run themselves. */
const SELF_HOSTED: ReadonlySet<string> = new Set(['vllm', 'llama.cpp', 'gpustack']);

const presetTypes = Object.entries(PRESETS).map(([name, preset]): [string, ProviderType] => {
  const { baseUrl, apiKeyEnv, ...dialect } = preset;
  const create = (options: ProviderOptions) => createOpenAICompatible(options, dialect);
  return [
    name,
    {
      ...(baseUrl && { baseUrl }),
      ...(apiKeyEnv && { apiKeyEnv, baseUrlEnv: [apiKeyEnv.replace(/_API_KEY$/, '_BASE_URL')] }),
      ...(name === 'openai' && { defaultPath: '/v1' }),
      ...(SELF_HOSTED.has(name) && { selfHosted: true }),
      create,
    },
  ];
});

export const PROVIDER_TYPES: Readonly<Record<string, ProviderType>> = {
  ...Object.fromEntries(presetTypes),
  bella: { baseUrl: BELLA_BASE_URL, apiKeyEnv: 'BELLA_API_KEY', baseUrlEnv: ['BELLA_BASE_URL'], create: createBella },
  anthropic: {
    baseUrl: ANTHROPIC_BASE_URL,
    apiKeyEnv: 'ANTHROPIC_API_KEY',
    baseUrlEnv: ['ANTHROPIC_BASE_URL'],
    defaultPath: '/v1',
    create: createAnthropic,
  },
  gemini: {
    baseUrl: GEMINI_BASE_URL,
    apiKeyEnv: 'GEMINI_API_KEY',
    baseUrlEnv: ['GEMINI_BASE_URL'],
    defaultPath: '/v1beta',
    create: createGemini,
  },
  vertex: { create: createVertex },
  azure: {
    apiKeyEnv: 'AZURE_OPENAI_API_KEY',
    baseUrlEnv: ['AZURE_OPENAI_ENDPOINT', 'AZURE_OPENAI_BASE_URL'],
    create: createAzure,
  },
  ollama: { baseUrl: OLLAMA_BASE_URL, baseUrlEnv: ['OLLAMA_BASE_URL'], selfHosted: true, create: createOllama },
  'openai-compatible': { selfHosted: true, create: createOpenAICompatible },
  demo: { embedded: true, create: ({ name }) => createDemo(name) },
};

/** Returns the base URL of a provider: the configured one, with the path that its type requires, or its default. */
export function resolveBaseUrl({ baseUrl: standard = '', defaultPath }: ProviderType, configured?: string): string {
  if (configured === undefined) return standard;
  if (defaultPath === undefined) return configured;
  const url = new URL(configured);
  if (url.pathname === '/') url.pathname = defaultPath;
  return url.href;
}

/**
 * Returns true if a provider may run where private addresses can be reached: by its type, because its address is
 * private, or because it is not the service whose name it has.
 */
export function isSelfHosted({ baseUrl: standard, selfHosted }: ProviderType, baseUrl: string): boolean {
  if (selfHosted) return true;
  const { hostname } = new URL(baseUrl);
  return isPrivateHost(hostname) || (standard !== undefined && hostname !== new URL(standard).hostname);
}
