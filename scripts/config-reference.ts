import type { TSchema } from '@sinclair/typebox';
import { environmentNames } from '../plugins/config/environment.ts';
import { ConfigSchema } from '../plugins/config/schema.ts';

/** Returns the table of all settings in `docs/configuration.md`, made from the schema. Pure. */
export function configurationReference(): string {
  const names = environmentNames();
  const rows = [...settings(ConfigSchema, '')].map(({ path, schema, isOptional }) => {
    const environment = names.get(`/${path.replaceAll('.', '/')}`);
    return `| \`${path}\` | ${environment ? `\`${environment}\`` : ''} | ${defaultOf(schema, isOptional)} | ${describe(schema)} |`;
  });
  return ['| file key | environment | default | |', '|---|---|---|---|', ...rows].join('\n');
}

interface Setting {
  readonly path: string;
  readonly schema: TSchema;
  readonly isOptional: boolean;
}

/** Lists the leaves of the schema. `<name>` and `[]` stand for names and list items of the file. */
function* settings(schema: TSchema, path: string): Generator<Setting> {
  const below = (name: string) => (path === '' ? name : `${path}.${name}`);
  const { properties, patternProperties, items } = schema as {
    properties?: Record<string, TSchema>;
    patternProperties?: Record<string, TSchema>;
    items?: TSchema;
  };
  const required = new Set((schema.required as string[] | undefined) ?? []);
  for (const [name, one] of Object.entries(properties ?? {})) {
    const inner = one.type === 'array' ? (one.items as TSchema) : one;
    // An object with free names and a description is a setting of its own.
    const isRecord = inner?.properties === undefined && inner?.description !== undefined;
    if (inner?.type === 'object' && !isRecord) yield* settings(one, below(name));
    else yield { path: below(name), schema: one, isOptional: !required.has(name) };
  }
  for (const one of Object.values(patternProperties ?? {})) yield* settings(one, below('<name>'));
  if (items?.type === 'object') yield* settings(items, `${path}[]`);
}

function defaultOf(schema: TSchema, isOptional: boolean): string {
  if (schema.default === undefined) return isOptional ? '' : 'required';
  return schema.default === '' || (Array.isArray(schema.default) && schema.default.length === 0)
    ? 'none'
    : String(schema.default);
}

function describe(schema: TSchema): string {
  const choices = (schema.anyOf as { const?: unknown }[] | undefined)?.map((one) => one.const);
  const words = [(schema.description as string | undefined) ?? ''];
  if (choices?.every((choice) => choice !== undefined))
    words.push(`one of ${choices.map((one) => `\`${one}\``).join(', ')}`);
  const { minimum, maximum } = schema as { minimum?: number; maximum?: number };
  if (minimum !== undefined && maximum !== undefined) words.push(`${minimum} to ${maximum}`);
  return words
    .filter((word) => word !== '')
    .join('; ')
    .replaceAll('|', '\\|');
}
