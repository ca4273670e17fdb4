import { parseDocument } from 'yaml';
import type { FileReader } from './files.ts';
import { describeFileError } from './messages.ts';
import type { Variables } from './variables.ts';

/**
 * Reads the file named by CONFIG_FILE: YAML or JSON, with `${NAME}` replaced from the environment; `$${NAME}` stands
 * for the text itself. Adds problems to the list.
 */
export function readConfigFile(
  path: string,
  files: FileReader,
  variables: Variables,
  problems: string[],
): Record<string, unknown> {
  let document: unknown;
  try {
    document = parseYaml(files.read(path));
  } catch (error) {
    problems.push(`CONFIG_FILE: ${describeReadError(error)}`);
    return {};
  }
  if (document === null || document === undefined) return {};
  if (typeof document !== 'object' || Array.isArray(document)) {
    problems.push('CONFIG_FILE: must be a mapping of settings');
    return {};
  }
  const missing = new Set<string>();
  const interpolated = interpolate(document, variables, missing) as Record<string, unknown>;
  for (const name of missing) problems.push(`${name}: used in CONFIG_FILE but not set`);
  return interpolated;
}

/**
 * Parses YAML.
 * @throws the first error or warning, such as an unknown tag
 */
function parseYaml(text: string): unknown {
  // The default level prints warnings to standard error, with lines of the file.
  const document = parseDocument(text, { logLevel: 'error' });
  const [problem] = [...document.errors, ...document.warnings];
  if (problem !== undefined) throw problem;
  return document.toJS({ maxAliasCount: 100 });
}

/** Names the position of the error, never the line itself: it may hold a key. */
function describeReadError(error: unknown): string {
  const { linePos } = error as { linePos?: [{ line: number; col: number }] };
  if (linePos) return `not valid YAML at line ${linePos[0].line}, column ${linePos[0].col}`;
  // The parser counts aliases, so that a small file cannot become a huge value.
  return error instanceof ReferenceError ? 'not valid YAML: too many aliases' : describeFileError(error);
}

function interpolate(value: unknown, variables: Variables, missing: Set<string>): unknown {
  if (typeof value === 'string') {
    return value.replace(/\$?\$\{(\w+)\}/g, (whole, name: string) => {
      if (whole.startsWith('$$')) return whole.slice(1);
      const text = variables.get(name);
      if (text === undefined && !variables.isInvalid(name)) missing.add(name);
      return text ?? whole;
    });
  }
  if (Array.isArray(value)) return value.map((item) => interpolate(item, variables, missing));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, interpolate(item, variables, missing)]));
}
