import { LogController } from 'fastify';
import type { DestinationStream, LoggerOptions } from 'pino';

/** Logger settings. No log line holds a question, a secret, a stack, or a message that may quote one of them. */

export function loggerOptions(level: string, destination?: DestinationStream) {
  const options: LoggerOptions = {
    level,
    serializers: { err: serializeError, error: serializeError, req: serializeRequest },
  };
  return destination ? { ...options, stream: destination } : options;
}

/** Fastify's own request lines would show the query. `request-log.ts` and the streams log instead. */
export const logController = new LogController({ disableRequestLogging: true });

export interface SerializedError {
  readonly name: string;
  readonly code: string | undefined;
  /** File and line where the error was created. */
  readonly at: string | undefined;
}

/** Returns what may be logged of an error. Its message is left out: it may repeat input, as in `JSON.parse`. */
export function serializeError(error: unknown): SerializedError {
  const { name = 'Error', code, stack = '' } = (error ?? {}) as NodeJS.ErrnoException;
  const line = stack.split('\n').find((text) => /^\s+at /.test(text)) ?? '';
  return { name, code, at: /([^/\s(]{1,100}\/[^/\s(:]{1,100}:\d{1,9}):\d/.exec(line)?.[1] };
}

function serializeRequest({ method }: { method?: string }): object {
  return { method };
}
