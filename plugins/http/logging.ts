import { LogController } from 'fastify';
import type { DestinationStream, LoggerOptions } from 'pino';
import { serializeError } from './serialize-error.ts';

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

function serializeRequest({ method }: { method?: string }): object {
  return { method };
}
