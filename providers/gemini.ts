import type { Provider } from './types.ts';
import { geminiBody } from './wire/gemini-body.ts';
import { unsupportedByGemini } from './wire/gemini-models.ts';
import { createGeminiDecoder } from './wire/gemini-stream.ts';
import { bearer, createHttpProvider, type Dialect, type ProviderOptions } from './wire/provider.ts';
import { unsupportedOption } from './wire/unsupported.ts';

export const GEMINI_BASE_URL = 'https://generativelanguage.googleapis.com/v1beta';

const DIALECT: Omit<Dialect, 'authorization'> = {
  contentType: 'text/event-stream',
  call: (request) => ({
    // Without `alt=sse` the response body is one JSON array.
    path: `/models/${encodeURIComponent(request.model)}:streamGenerateContent?alt=sse`,
    body: geminiBody(request),
  }),
  unsupported: (request) => unsupportedOption(request, 'gemini') ?? unsupportedByGemini(request),
  createDecoder: createGeminiDecoder,
};

/** Creates a provider for Google's Gemini API. */
export function createGemini(options: ProviderOptions): Provider {
  return createHttpProvider(options, { ...DIALECT, authorization: (apiKey) => ({ 'x-goog-api-key': apiKey }) });
}

/**
 * Creates a provider for the Gemini API on Vertex AI. The key is an access token, and the base URL is
 * `https://<region>-aiplatform.googleapis.com/v1/projects/<project>/locations/<region>/publishers/google`.
 */
export function createVertex(options: ProviderOptions): Provider {
  return createHttpProvider(options, { ...DIALECT, authorization: bearer });
}
