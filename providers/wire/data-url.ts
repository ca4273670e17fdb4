import { ProviderError } from '../errors.ts';

export interface InlineContent {
  readonly mimeType: string;
  /** Base64. */
  readonly data: string;
}

/**
 * Returns the content of a base64 `data:` URL; undefined for a URL with another scheme.
 * @throws ProviderError for a `data:` URL that is not base64 or has no media type
 */
export function parseDataUrl(url: string): InlineContent | undefined {
  const [, mimeType, data] = /^data:([\w.+-]+\/[\w.+-]+)(?:;[\w-]+=[^;,]*)*;base64,(.*)$/s.exec(url) ?? [];
  if (mimeType !== undefined && data !== undefined) return { mimeType, data };
  if (!/^data:/i.test(url)) return undefined;
  throw imageUrlError();
}

/** Returns the error for an image URL that cannot be sent to the provider. */
export function imageUrlError(): ProviderError {
  return new ProviderError('upstream_rejected', {
    reason: 'image_url',
    param: 'messages',
    retryable: false,
    upstreamStatus: 400,
  });
}

/** Returns a name for a file without one. OpenAI requires a name. */
export function defaultFilename(mimeType: string): string {
  return `file.${/^[\w.+-]+\/([\w-]+)$/.exec(mimeType)?.[1] ?? 'bin'}`;
}
