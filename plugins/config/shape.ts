import type { TSchema } from '@sinclair/typebox';

/** Finds settings of the wrong kind in a file, before defaults are merged into it: they would hide a mapping in place of a list. */

interface Node extends TSchema {
  readonly items?: Node;
  readonly properties?: Readonly<Record<string, Node>>;
  readonly patternProperties?: Readonly<Record<string, Node>>;
}

const HINTS: Readonly<Record<string, string>> = {
  array: 'must be a list; begin each entry with "- "',
  object: 'must be a mapping of names to values',
};

/** Returns one problem for each list that is no list, and for each mapping that is no mapping, with its path. */
export function shapeProblems(schema: TSchema, file: Readonly<Record<string, unknown>>): string[] {
  const problems: string[] = [];
  const visit = (node: Node, value: unknown, path: readonly string[]): void => {
    if (value === undefined) return;
    const isList = Array.isArray(value);
    const isMapping = typeof value === 'object' && value !== null && !isList;
    if (node.type === 'array' ? !isList : node.type === 'object' && !isMapping) {
      problems.push(`${path.join('.')}: ${HINTS[node.type as string]}`);
      return;
    }
    if (isList && node.items) for (const [i, item] of value.entries()) visit(node.items, item, [...path, String(i)]);
    if (!isMapping) return;
    const [others] = Object.values(node.patternProperties ?? {});
    for (const [name, item] of Object.entries(value)) {
      const child = node.properties?.[name] ?? others;
      if (child) visit(child, item, [...path, name]);
    }
  };
  visit(schema as Node, file, []);
  return problems;
}
