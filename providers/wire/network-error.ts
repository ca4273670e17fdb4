import { ProviderError } from '../errors.ts';

/**
 * Converts an error of undici or Node into a `ProviderError`. Returns a `ProviderError` and the error of an
 * abort unchanged.
 * @param phase the part of the response that failed: before its headers, or its body
 */
export function networkError(error: unknown, phase: 'before_headers' | 'in_body'): unknown {
  if (error instanceof ProviderError) return error;
  const { code = '', name = '' } = error as { code?: string; name?: string };
  if (name === 'AbortError' || code === 'UND_ERR_ABORTED') return error;
  const failure = (errorCode: 'upstream_unreachable' | 'upstream_truncated' | 'upstream_protocol', reason: string) =>
    new ProviderError(errorCode, { reason, retryable: true, cause: error });
  const timeout = (stage: 'connect' | 'headers') =>
    new ProviderError('upstream_timeout', { reason: `${stage}_timeout`, stage, retryable: true, cause: error });

  if (code === 'UND_ERR_CONNECT_TIMEOUT' || code === 'ETIMEDOUT') return timeout('connect');
  if (code === 'UND_ERR_HEADERS_TIMEOUT') return timeout('headers');
  if (code.startsWith('HPE_') || code === 'UND_ERR_HEADERS_OVERFLOW')
    return failure('upstream_protocol', 'http_parser');
  if (phase === 'in_body') return failure('upstream_truncated', 'reset');
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return failure('upstream_unreachable', 'dns');
  return failure('upstream_unreachable', 'connect');
}
