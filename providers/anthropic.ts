import type { Provider } from './types.ts';
import { anthropicBody, unsupportedByAnthropic } from './wire/anthropic-body.ts';
import { createAnthropicDecoder } from './wire/anthropic-stream.ts';
import { createHttpProvider, type ProviderOptions } from './wire/provider.ts';

export const ANTHROPIC_BASE_URL = 'https://api.anthropic.com/v1';

/** Creates a provider for Anthropic's Messages API. */
export function createAnthropic(options: ProviderOptions): Provider {
  return createHttpProvider(options, {
    contentType: 'text/event-stream',
    headers: { 'anthropic-version': '2023-06-01' },
    authorization: (apiKey) => ({ 'x-api-key': apiKey }),
    unsupported: unsupportedByAnthropic,
    call: (request) => ({ path: '/messages', body: anthropicBody(request, options.sampling) }),
    createDecoder: createAnthropicDecoder,
  });
}
