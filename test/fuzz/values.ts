import fc from 'fast-check';

/** Makes values from the JSON schemas of the OpenAPI document: valid ones, and values with exactly one thing wrong. */

export interface Schema {
  readonly $ref?: string;
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly allOf?: readonly Schema[];
  readonly if?: Schema;
  readonly then?: Schema;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean | Schema;
  readonly items?: Schema;
  readonly pattern?: string;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly minimum?: number;
  readonly maximum?: number;
}

type Fields = Record<string, unknown>;
type Values = fc.Arbitrary<unknown>;

export interface ValueOptions {
  /** Shared schemas by name. */
  readonly shared: Readonly<Record<string, Schema>>;
  /**
   * Returns likely values of a place that the schema leaves open, such as the parts of a message. `place` has the names
   * of members, joined by dots; `*` stands for the items of a list, and `+` for members that the schema does not name.
   */
  likely(place: string): Values | undefined;
  /** Returns the values of a shared schema that cannot be made from its pattern. */
  named(schema: string): Values | undefined;
}

/** Occurs in every generated text. No error and no log line may have it. */
export const CANARY = 'CaNaRy';

const ODD_TEXTS = [
  '',
  '\ud800',
  '\udc00x',
  '\u0000',
  '\u202e',
  '\ufeff',
  '\u2028',
  'é\u0301',
  '👩‍👩‍👧',
  '\\',
  '"',
  '{{x}}',
  '%zz',
  '\r\n\r\n',
];
const plainText = fc.oneof(
  fc.string({ maxLength: 20 }),
  fc.string({ unit: 'binary', maxLength: 20 }),
  fc.constantFrom(...ODD_TEXTS),
);

/** Any text within the bounds. */
export function text(minLength = 0, maxLength = 1_000): fc.Arbitrary<string> {
  return plainText.map((rest) => (CANARY + rest).slice(0, maxLength).padEnd(minLength, 'x'));
}

/** Any JSON, with names that no parser treats as special. */
export const anyJson: Values = fc
  .jsonValue({ maxDepth: 2, stringUnit: 'binary' })
  .filter((value) => !/__proto__|constructor/.test(JSON.stringify(value)));

const record = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const nameOf = ({ $ref }: Schema): string => $ref?.split('/').at(-1) ?? '';

export function resolve(schema: Schema, shared: ValueOptions['shared']): Schema {
  return schema.$ref === undefined ? schema : (shared[nameOf(schema)] as Schema);
}

/** Returns an arbitrary of values that the schema allows. */
export function validValue(schema: Schema, options: ValueOptions, place = ''): Values {
  const named = options.named(nameOf(schema));
  if (named !== undefined) return named;
  const likely = options.likely(place);
  const fromSchema = schemaValue(resolve(schema, options.shared), options, place);
  return likely === undefined ? fromSchema : fc.oneof({ arbitrary: likely, weight: 9 }, fromSchema);
}

function schemaValue(schema: Schema, options: ValueOptions, place: string): Values {
  if (schema.allOf) return allOfValue(schema.allOf, options, place);
  const branches = schema.anyOf ?? schema.oneOf;
  if (branches) return fc.oneof(...branches.map((branch) => validValue(branch, options, place)));
  if (schema.enum) return fc.constantFrom(...schema.enum);
  switch (schema.type) {
    case 'string':
      return stringValue(schema);
    case 'integer':
      return fc.integer({ min: schema.minimum ?? -1_000, max: schema.maximum ?? 1_000 });
    case 'number':
      return fc.double({ min: schema.minimum ?? -1_000, max: schema.maximum ?? 1_000, noNaN: true });
    case 'boolean':
      return fc.boolean();
    case 'null':
      return fc.constant(null);
    case 'array': {
      const minLength = schema.minItems ?? 0;
      const items = validValue(schema.items ?? {}, options, `${place}.*`);
      return fc.array(items, { minLength, maxLength: Math.min(schema.maxItems ?? 3, minLength + 2) });
    }
    case 'object':
      return objectValue(schema, options, place);
    default:
      return anyJson;
  }
}

function stringValue({ pattern, minLength, maxLength }: Schema): fc.Arbitrary<string> {
  return pattern === undefined ? text(minLength, maxLength) : fc.stringMatching(new RegExp(pattern));
}

function objectValue(
  { properties, required = [], additionalProperties }: Schema,
  options: ValueOptions,
  place: string,
): Values {
  if (properties === undefined) {
    const values =
      typeof additionalProperties === 'object' ? validValue(additionalProperties, options, `${place}.+`) : anyJson;
    return fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), values, {
      maxKeys: additionalProperties === false ? 0 : 3,
    });
  }
  const fields = Object.entries(properties).map(([name, field]) => [
    name,
    validValue(field, options, place === '' ? name : `${place}.${name}`),
  ]);
  const likely = options.likely(`${place}.+`);
  const own = fc.record(Object.fromEntries(fields) as Record<string, Values>, { requiredKeys: [...required] });
  return likely === undefined ? own : fc.tuple(own, likely).map(([value, more]) => ({ ...(more as Fields), ...value }));
}

/** Merges objects, alternatives of required fields, and conditions on one field of the object. */
function allOfValue(all: readonly Schema[], options: ValueOptions, place: string): Values {
  const objects = all.filter((one) => one.properties !== undefined);
  const base = fc
    .tuple(...objects.map((one) => objectValue(one, options, place)))
    .map((values) => Object.assign({}, ...values) as Fields);
  const alternatives = all.flatMap(({ oneOf }) => oneOf ?? []).map(({ required = [] }) => required);
  const names = alternatives.flat();
  const fieldsOf = (wanted: readonly string[]): fc.Arbitrary<Fields> => {
    const properties = Object.assign({}, ...objects.map((one) => one.properties));
    return fc.record(Object.fromEntries(wanted.map((name) => [name, validValue(properties[name], options, name)])));
  };
  const chosen: fc.Arbitrary<Fields> =
    alternatives.length === 0 ? fc.constant({}) : fc.oneof(...alternatives.map(fieldsOf));
  const conditions = all.flatMap((one) => (one.if && one.then ? [[one.if, one.then] as const] : []));
  const consequences = conditions.map(([, then]) => objectValue(then, options, place) as fc.Arbitrary<Fields>);
  return fc.tuple(base, chosen, fc.tuple(...consequences)).map(([value, alternative, additions]) => {
    const merged: Fields = { ...value };
    for (const name of names) delete merged[name];
    Object.assign(merged, alternative);
    for (const [i, [condition, then]] of conditions.entries()) {
      if (!holds(condition, merged)) continue;
      for (const name of Object.keys(then.properties ?? {})) delete merged[name];
      Object.assign(merged, additions[i]);
    }
    return merged;
  });
}

/** Returns true if an object has the fields, the enumerated values and the least values of a condition. */
function holds({ anyOf, required = [], properties = {} }: Schema, value: Fields): boolean {
  if (anyOf) return anyOf.some((one) => holds(one, value));
  const isAllowed = (field: Schema, current: unknown) =>
    (field.enum?.includes(current) ?? true) && (field.minimum === undefined || Number(current) >= field.minimum);
  return (
    required.every((name) => name in value) &&
    Object.entries(properties).every(([name, field]) => isAllowed(field, value[name]))
  );
}

/** A change of one place in a value. */
export interface Change {
  readonly name: string;
  apply(): unknown;
}

/** Values of the wrong type almost everywhere. */
const ODD_VALUES: readonly unknown[] = [
  null,
  true,
  0,
  -1,
  1.5,
  '',
  ` ${CANARY}\u0000`,
  [],
  [[]],
  {},
  { [`${CANARY} 问`]: {} },
];
const MAX_DEPTH = 64;

/** Returns all single changes of a value that its schema suggests. Some of them may still be valid. */
export function changesOf(schema: Schema, value: unknown, shared: ValueOptions['shared']): Change[] {
  const changes: Change[] = [];
  const visit = (schemas: readonly Schema[], current: unknown, path: readonly string[]) => {
    const at = path.join('.') || 'the value';
    const set = (name: string, wrong: unknown) =>
      changes.push({ name: `${at} ${name}`, apply: () => replaceAt(value, path, () => wrong) });
    for (const odd of ODD_VALUES) set(`is ${JSON.stringify(odd)}`, odd);
    for (const [name, wrong] of schemas.flatMap((one) => boundsOf(one, current))) set(name, wrong);
    set('is nested too deeply', nested(MAX_DEPTH + 1));
    if (Array.isArray(current)) {
      const items = schemas.flatMap((one) => flatten(one.items ?? {}, shared));
      for (const [i, item] of current.entries()) visit(items, item, [...path, String(i)]);
    } else if (record(current)) {
      for (const name of ['qestion', `${CANARY} 问`, 'toString']) {
        changes.push({
          name: `${at} has ${name}`,
          apply: () => replaceAt(value, path, (old) => ({ ...(old as Fields), [name]: 1 })),
        });
      }
      for (const name of Object.keys(current)) {
        const drop = (old: unknown) =>
          Object.fromEntries(Object.entries(old as Fields).filter(([key]) => key !== name));
        changes.push({ name: `${at} lacks ${name}`, apply: () => replaceAt(value, path, drop) });
        visit(
          schemas.flatMap((one) => flatten(one.properties?.[name] ?? {}, shared)),
          current[name],
          [...path, name],
        );
      }
    }
  };
  visit(flatten(schema, shared), value, []);
  return changes;
}

/** Returns a schema and all alternatives and parts in it that concern the same value. */
function flatten(schema: Schema, shared: ValueOptions['shared']): Schema[] {
  const own = resolve(schema, shared);
  const inner = [...(own.anyOf ?? []), ...(own.oneOf ?? []), ...(own.allOf ?? []), ...(own.then ? [own.then] : [])];
  return [own, ...inner.flatMap((one) => flatten(one, shared))];
}

/** Returns the values right behind the bounds of a schema. */
function boundsOf(schema: Schema, value: unknown): [name: string, value: unknown][] {
  const { minimum, maximum, minLength, maxLength, minItems, maxItems } = schema;
  const bounds: [string, unknown][] = [];
  if (minimum !== undefined) bounds.push(['is too small', minimum - 1], ['is far too small', -Number.MAX_VALUE]);
  if (maximum !== undefined) bounds.push(['is too large', maximum + 1], ['is far too large', Number.MAX_VALUE]);
  if (minLength !== undefined) bounds.push(['is too short', 'x'.repeat(minLength - 1)]);
  if (maxLength !== undefined) bounds.push(['is too long', 'x'.repeat(maxLength + 1)]);
  if (minItems !== undefined) bounds.push(['has too few items', []]);
  const first = Array.isArray(value) ? value[0] : undefined;
  if (maxItems !== undefined && first !== undefined)
    bounds.push(['has too many items', Array(maxItems + 1).fill(first)]);
  if (schema.pattern !== undefined || schema.enum !== undefined)
    bounds.push(['has other characters', `${CANARY} \u00fc/..`]);
  return bounds;
}

/** Returns a copy of a value in which the place of a path is replaced. */
function replaceAt(value: unknown, path: readonly string[], change: (old: unknown) => unknown): unknown {
  const [name, ...rest] = path;
  if (name === undefined) return change(value);
  if (Array.isArray(value)) return value.map((item, i) => (String(i) === name ? replaceAt(item, rest, change) : item));
  const fields = value as Fields;
  return { ...fields, [name]: replaceAt(fields[name], rest, change) };
}

function nested(depth: number): unknown {
  let value: unknown = [];
  for (let i = 1; i < depth; i++) value = [value];
  return value;
}
