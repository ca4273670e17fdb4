import { ProviderError } from '../errors.ts';

export interface Inline {
  readonly mimeType: string;
  /** Base64. */
  readonly data: string;
}

/**
 * The content of a base64 `data:` URL; undefined for an `https:` one.
 * @throws ProviderError for any other `data:` URL
 */
export function inlineData(url: string): Inline | undefined {
  const [, mimeType, data] = /^data:([\w.+-]+\/[\w.+-]+)(?:;[\w-]+=[^;,]*)*;base64,(.*)$/s.exec(url) ?? [];
  if (mimeType !== undefined && data !== undefined) return { mimeType, data };
  if (!/^data:/i.test(url)) return undefined;
  throw new ProviderError('upstream_rejected', { reason: 'image_url', retryable: false, upstreamStatus: 400 });
}
