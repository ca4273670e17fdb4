import type { ChatRequest } from '../types.ts';

/** Returns the options that the operator forwards. They go into the body unchanged and win over fields of the same name. */
export function forwardedOptions({ options = {}, forward = [] }: ChatRequest): Record<string, unknown> {
  const names = forward.filter((name) => options[name] !== undefined);
  return Object.fromEntries(names.map((name) => [name, options[name]]));
}

/**
 * Returns options under the names of the API, without absent ones and those that the operator forwards.
 * @param names the API's names by the names of Chat Completions
 */
export function renamedOptions(
  { options = {}, forward = [] }: ChatRequest,
  names: Readonly<Record<string, string>>,
): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(names).flatMap(([name, apiName]) => {
      const value = options[name];
      return value === undefined || value === null || forward.includes(name) ? [] : [[apiName, value]];
    }),
  );
}
