/** Reads `response_format`, which Chat Completions has for JSON answers. */

export interface JsonFormat {
  /** JSON schema of the answer; undefined for any JSON object. */
  readonly schema?: Readonly<Record<string, unknown>>;
}

/** Returns the format of a JSON answer; undefined for a text. */
export function jsonFormatOf({
  response_format: format,
}: Readonly<Record<string, unknown>> = {}): JsonFormat | undefined {
  const { type, json_schema: named } = (format ?? {}) as { type?: unknown; json_schema?: { schema?: unknown } | null };
  if (type === 'json_object') return {};
  if (type !== 'json_schema') return undefined;
  const schema = named?.schema;
  return typeof schema === 'object' && schema !== null ? { schema: schema as Record<string, unknown> } : {};
}
