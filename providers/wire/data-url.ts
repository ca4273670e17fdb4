export interface Inline {
  readonly mimeType: string;
  /** Base64. */
  readonly data: string;
}

/** The content of a base64 `data:` URL; undefined for any other URL. */
export function inlineData(url: string): Inline | undefined {
  const [, mimeType, data] = /^data:([\w.+-]+\/[\w.+-]+);base64,(.*)$/s.exec(url) ?? [];
  return mimeType !== undefined && data !== undefined ? { mimeType, data } : undefined;
}
