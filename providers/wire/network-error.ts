import { ProviderError } from '../errors.ts';

/** Codes of errors that come from the connection: those of undici, of the system, of TLS and of Node's streams. */
const NETWORK_CODE =
  /^(UND_ERR_|EAI_|E(?!RR_)[A-Z0-9]+$|HPE_|ERR_TLS_|ERR_SSL_|ERR_STREAM_|ERR_SOCKET_|CERT_|[A-Z_]*(CERT|SIGNATURE)[A-Z_]*$)/;

/** Codes of a failed TLS handshake. A certificate stays invalid; a broken protocol may be a restart. */
const TLS_CODE = /^(ERR_TLS_|ERR_SSL_|EPROTO$|(INVALID_(CA|PURPOSE)|HOSTNAME_MISMATCH|PATH_LENGTH_EXCEEDED)$)/;
const CERTIFICATE_CODE = /^[A-Z_]*(CERT|SIGNATURE|CRL)[A-Z_]*$/;
const TLS_PROTOCOL_CODE = /^(ERR_SSL_|EPROTO$|ERR_TLS_HANDSHAKE_TIMEOUT$)/;

/**
 * Converts an error of undici or Node into a `ProviderError`. Returns unchanged a `ProviderError`, the error of an
 * abort, and every other error: that is a fault of this service, for which no provider is to blame.
 * @param phase the part of the response that failed: before its headers, or its body
 */
export function networkError(error: unknown, phase: 'before_headers' | 'in_body'): unknown {
  if (error instanceof ProviderError) return error;
  const { code = '', name = '' } = error as { code?: string | number; name?: string };
  if (name === 'AbortError' || code === 'UND_ERR_ABORTED') return error;
  // undici leaves the code out if the chunked encoding is broken.
  const isParserError = name === 'HTTPParserError' || String(code).startsWith('HPE_');
  if (!isParserError && !(typeof code === 'string' && (NETWORK_CODE.test(code) || isTlsCode(code)))) {
    return error;
  }
  const failure = (errorCode: 'upstream_unreachable' | 'upstream_truncated' | 'upstream_protocol', reason: string) =>
    new ProviderError(errorCode, { reason, retryable: true, cause: error });
  const timeout = (stage: 'connect' | 'headers') =>
    new ProviderError('upstream_timeout', { reason: `${stage}_timeout`, stage, retryable: true, cause: error });

  if (code === 'UND_ERR_CONNECT_TIMEOUT' || code === 'ETIMEDOUT') return timeout('connect');
  if (code === 'UND_ERR_HEADERS_TIMEOUT') return timeout('headers');
  if (isParserError || code === 'UND_ERR_HEADERS_OVERFLOW') return failure('upstream_protocol', 'http_parser');
  // Both Content-Length and Transfer-Encoding, for example. The server will do it again.
  if (code === 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH' && phase === 'before_headers') {
    return new ProviderError('upstream_protocol', { reason: 'content_length', retryable: false, cause: error });
  }
  if (phase === 'in_body') return failure('upstream_truncated', 'reset');
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return failure('upstream_unreachable', 'dns');
  if (isReused(error)) {
    const init = { reason: 'stale_connection', retryable: true, retryAfterMs: 0, cause: error };
    return new ProviderError('upstream_unreachable', init);
  }
  if (typeof code === 'string' && isTlsCode(code)) {
    const retryable = TLS_PROTOCOL_CODE.test(code);
    return new ProviderError('upstream_unreachable', { reason: 'tls', tlsCode: code, retryable, cause: error });
  }
  return failure('upstream_unreachable', 'connect');
}

function isTlsCode(code: string): boolean {
  return code.length <= 64 && (TLS_CODE.test(code) || CERTIFICATE_CODE.test(code));
}

/**
 * Returns true if the connection had carried a response before: the server has closed it while the next call was
 * written to it. That says nothing about the server.
 */
function isReused(error: unknown): boolean {
  const { isReused, socket } = error as { isReused?: boolean; socket?: { bytesRead?: number } };
  return isReused ?? (socket?.bytesRead ?? 0) > 0;
}
