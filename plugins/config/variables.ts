import type { FileReader } from './files.ts';
import { describeFileError } from './messages.ts';
import { INVISIBLE } from './patterns.ts';

/** Reads environment variables, and the files that variables with the suffix `_FILE` name. */

export type Environment = Readonly<Record<string, string | undefined>>;

export interface Variables {
  /**
   * Returns the value of a variable, or else the content of the file that `<name>_FILE` names; undefined if neither
   * is set. White space around a value and a pair of quotes are removed. Empty variables count as unset, because
   * compose files and charts leave them empty.
   */
  get(name: string): string | undefined;
  /** Returns the variable that is set: the name, or the name with `_FILE`. For messages. */
  sourceOf(name: string): string;
  /** Names for which `get` was called. */
  readonly used: ReadonlySet<string>;
  /** Returns true if a problem of the variable was reported. */
  isInvalid(name: string): boolean;
}

/** Creates the variables of an environment. Adds problems to the list, each variable at most once. */
export function createVariables(env: Environment, files: FileReader, problems: string[]): Variables {
  const values = new Map<string, string | undefined>();
  const used = new Set<string>();
  const invalid = new Set<string>();
  const report = (name: string, source: string, problem: string) => {
    invalid.add(name);
    problems.push(`${source}: ${problem}`);
    return undefined;
  };

  const read = (name: string): string | undefined => {
    const path = clean(env[`${name}_FILE`] ?? '');
    const inEnvironment = clean(env[name] ?? '');
    const isBlank = inEnvironment === '' && env[name] !== undefined && env[name] !== '' && !isQuotedNothing(env[name]);
    if (isBlank) return report(name, name, 'contains only white space');
    if (path === '') return inEnvironment === '' ? undefined : inEnvironment;
    if (inEnvironment !== '') {
      report(name, name, `set either ${name} or ${name}_FILE, not both`);
      return inEnvironment;
    }
    try {
      return clean(files.read(path)) || report(name, `${name}_FILE`, 'the file is empty');
    } catch (error) {
      return report(name, `${name}_FILE`, describeFileError(error));
    }
  };

  const sourceOf = (name: string) => (clean(env[name] ?? '') === '' && env[`${name}_FILE`] ? `${name}_FILE` : name);

  return {
    used,
    get(name) {
      used.add(name);
      if (!values.has(name)) {
        const value = read(name);
        if (value !== undefined && INVISIBLE.test(value))
          report(name, sourceOf(name), 'contains an invisible character');
        values.set(name, value);
      }
      return values.get(name);
    },
    sourceOf,
    isInvalid: (name) => invalid.has(name),
  };
}

/** Removes white space around a value, and the quotes that `docker run --env-file` keeps. */
export function clean(text: string): string {
  const trimmed = text.trim();
  const [, double, single] = /^"([^"]*)"$|^'([^']*)'$/.exec(trimmed) ?? [];
  return (double ?? single ?? trimmed).trim();
}

function isQuotedNothing(text: string): boolean {
  return /^\s*(""|'')\s*$/.test(text);
}
