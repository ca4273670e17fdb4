export interface SerializedError {
  readonly name: string;
  readonly code: string | undefined;
  /** File and line where the error was created. */
  readonly at: string | undefined;
  /** Function that created it. A bundle has few files, so that the line alone says little. */
  readonly in: string | undefined;
}

/** Returns what may be shown of an error. Its message is left out: it may repeat input, as in `JSON.parse`. */
export function serializeError(error: unknown): SerializedError {
  const { name = 'Error', code, stack = '' } = (error ?? {}) as NodeJS.ErrnoException;
  const line = stack.split('\n').find((text) => /^\s+at /.test(text)) ?? '';
  return {
    name,
    code,
    at: /([^/\s(]{1,100}\/[^/\s(:]{1,100}:\d{1,9}):\d/.exec(line)?.[1],
    in: /^\s{1,20}at (?:async )?([\w.#$]{1,100}) /.exec(line)?.[1],
  };
}
