/**
 * Converts JSON schemas to the subset of Anthropic's structured outputs:
 * https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations
 */

type Schema = Readonly<Record<string, unknown>>;

/** Constraints that the API refuses. Anthropic's SDKs move them to the description, too. */
const UNSUPPORTED: ReadonlySet<string> = new Set([
  'minimum',
  'maximum',
  'exclusiveMinimum',
  'exclusiveMaximum',
  'multipleOf',
  'minLength',
  'maxLength',
  'maxItems',
  'uniqueItems',
  'minProperties',
  'maxProperties',
]);
const SCHEMA_MAPS: ReadonlySet<string> = new Set(['properties', '$defs', 'definitions']);
const SCHEMAS: ReadonlySet<string> = new Set(['items', 'anyOf', 'oneOf', 'allOf']);

/**
 * Returns the schema with `additionalProperties: false` in every object. Constraints that the API refuses become part
 * of the description, so that the model still knows them; the client checks them anyway.
 */
export function closedSchema(schema: Schema): Record<string, unknown> {
  const closed: Record<string, unknown> = {};
  const hints: string[] = [];
  for (const [key, value] of Object.entries(schema)) {
    if (UNSUPPORTED.has(key) || (key === 'minItems' && Number(value) > 1))
      hints.push(`${key}: ${JSON.stringify(value)}`);
    else if (SCHEMA_MAPS.has(key) && isObject(value)) closed[key] = mapValues(value);
    // The API has no `oneOf`.
    else if (SCHEMAS.has(key)) closed[key === 'oneOf' ? 'anyOf' : key] = closeAny(value);
    else closed[key] = value;
  }
  if (closed.type === 'object' || closed.properties !== undefined) closed.additionalProperties = false;
  if (hints.length > 0) closed.description = [schema.description, `{${hints.join(', ')}}`].filter(Boolean).join('\n\n');
  return closed;
}

function closeAny(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(closeAny);
  return isObject(value) ? closedSchema(value) : value;
}

function mapValues(schemas: Schema): Record<string, unknown> {
  return Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, closeAny(schema)]));
}

function isObject(value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
