import { readFileSync } from 'node:fs';
import { parse } from 'yaml';
import type { Environment } from './environment.ts';

/** Reads the file named by CONFIG_FILE: YAML or JSON, with `${NAME}` replaced from the environment. Adds problems to the list. */
export function readConfigFile(path: string, env: Environment, problems: string[]): Record<string, unknown> {
  let document: unknown;
  try {
    document = parse(readFileSync(path, 'utf8'), { maxAliasCount: 100 });
  } catch (error) {
    problems.push(`CONFIG_FILE: ${describeReadError(error)}`);
    return {};
  }
  if (document === null || document === undefined) return {};
  if (typeof document !== 'object' || Array.isArray(document)) {
    problems.push('CONFIG_FILE: must be a mapping of settings');
    return {};
  }
  return interpolate(document, env, problems) as Record<string, unknown>;
}

/** Names the position of the error, never the line itself: it may hold a key. */
function describeReadError(error: unknown): string {
  const { code, linePos } = error as { code?: string; linePos?: [{ line: number; col: number }] };
  if (linePos) return `not valid YAML at line ${linePos[0].line}, column ${linePos[0].col}`;
  return code === 'ENOENT' ? 'file not found' : `cannot be read (${code ?? 'unknown reason'})`;
}

function interpolate(value: unknown, env: Environment, problems: string[]): unknown {
  if (typeof value === 'string') {
    return value.replace(/\$\{(\w+)\}/g, (whole, name: string) => {
      if (!env[name]) problems.push(`${name}: used in CONFIG_FILE but not set`);
      return env[name] || whole;
    });
  }
  if (Array.isArray(value)) return value.map((item) => interpolate(item, env, problems));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, interpolate(item, env, problems)]));
}
