import { ProviderError } from '../errors.ts';

/**
 * What undici or Node throw, as what it means. `phase` tells a connection that never answered from
 * an answer that broke off. An abort's own reason passes through untouched.
 */
export function networkError(error: unknown, phase: 'before_headers' | 'in_body'): unknown {
  if (error instanceof ProviderError) return error;
  const { code = '', name = '' } = error as { code?: string; name?: string };
  if (name === 'AbortError' || code === 'UND_ERR_ABORTED') return error;
  const fail = (kind: 'upstream_unreachable' | 'upstream_truncated' | 'upstream_protocol', reason: string) =>
    new ProviderError(kind, { reason, retryable: true, cause: error });
  const late = (stage: 'connect' | 'headers') =>
    new ProviderError('upstream_timeout', { reason: `${stage}_timeout`, stage, retryable: true, cause: error });

  if (code === 'UND_ERR_CONNECT_TIMEOUT' || code === 'ETIMEDOUT') return late('connect');
  if (code === 'UND_ERR_HEADERS_TIMEOUT') return late('headers');
  if (code.startsWith('HPE_') || code === 'UND_ERR_HEADERS_OVERFLOW') return fail('upstream_protocol', 'http_parser');
  if (phase === 'in_body') return fail('upstream_truncated', 'reset');
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return fail('upstream_unreachable', 'dns');
  return fail('upstream_unreachable', 'connect');
}
