import type { Provider } from './types.ts';
import { anthropicBody } from './wire/anthropic-body.ts';
import { createAnthropicDecoder } from './wire/anthropic-stream.ts';
import { unsupportedByClaude } from './wire/claude-models.ts';
import { createHttpProvider, type ProviderOptions } from './wire/provider.ts';
import { unsupportedOption } from './wire/unsupported.ts';

export const ANTHROPIC_BASE_URL = 'https://api.anthropic.com/v1';

/** Creates a provider for Anthropic's Messages API. */
export function createAnthropic(options: ProviderOptions): Provider {
  return createHttpProvider(options, {
    contentType: 'text/event-stream',
    headers: { 'anthropic-version': '2023-06-01' },
    authorization: (apiKey) => ({ 'x-api-key': apiKey }),
    call: (request) => ({ path: '/messages', body: anthropicBody(request, options.sampling) }),
    unsupported: (request) => unsupportedOption(request, 'anthropic') ?? unsupportedByClaude(request),
    createDecoder: createAnthropicDecoder,
  });
}
