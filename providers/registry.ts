import { BELLA_BASE_URL, createBella } from './bella.ts';
import { createDemo } from './demo.ts';
import { createOpenAICompatible, PRESETS, type Preset } from './openai-compatible.ts';
import type { Provider } from './types.ts';
import type { OpenAIProviderOptions } from './wire/openai-provider.ts';

/** The one list of provider types. A new provider is a file beside this one and a line here. */

export interface ProviderType {
  /** Where it lives unless the configuration says otherwise. */
  readonly baseUrl?: string;
  /** Whether the configuration has to say where it lives. */
  readonly requiresBaseUrl?: true;
  /** The environment variable whose presence switches the provider on. */
  readonly apiKeyEnv?: string;
  /** The environment variable that moves it, where there is one. */
  readonly baseUrlEnv?: string;
  create(options: OpenAIProviderOptions): Provider;
}

const presets = Object.entries(PRESETS).map(([name, preset]: [string, Preset]): [string, ProviderType] => {
  const { baseUrl, apiKeyEnv, ...dialect } = preset;
  const create = (options: OpenAIProviderOptions) => createOpenAICompatible(options, dialect);
  return [name, { baseUrl, ...(apiKeyEnv && { apiKeyEnv }), create }];
});

export const PROVIDER_TYPES: Readonly<Record<string, ProviderType>> = {
  bella: { baseUrl: BELLA_BASE_URL, apiKeyEnv: 'BELLA_API_KEY', baseUrlEnv: 'BELLA_BASE_URL', create: createBella },
  'openai-compatible': { requiresBaseUrl: true, create: (options) => createOpenAICompatible(options) },
  ...Object.fromEntries(presets),
  demo: { create: ({ name }) => createDemo(name) },
};
