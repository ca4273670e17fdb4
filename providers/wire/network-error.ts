import { closeSync, openSync } from 'node:fs';
import { isIPv4 } from 'node:net';
import { OverloadedError, ProviderError } from '../errors.ts';

/** Codes of errors that come from the connection: those of undici, of the system, of TLS and of Node's streams. */
const NETWORK_CODE =
  /^(UND_ERR_|EAI_|E(?!RR_)[A-Z0-9]+$|HPE_|ERR_TLS_|ERR_SSL_|ERR_STREAM_|ERR_SOCKET_|CERT_|[A-Z_]*(CERT|SIGNATURE)[A-Z_]*$)/;

/** Codes of a failed TLS handshake. A certificate stays invalid; a broken protocol may be a restart. */
const TLS_CODE = /^(ERR_TLS_|ERR_SSL_|EPROTO$|(INVALID_(CA|PURPOSE)|HOSTNAME_MISMATCH|PATH_LENGTH_EXCEEDED)$)/;
const CERTIFICATE_CODE = /^[A-Z_]*(CERT|SIGNATURE|CRL)[A-Z_]*$/;
const TLS_PROTOCOL_CODE = /^(ERR_SSL_|EPROTO$|ERR_TLS_HANDSHAKE_TIMEOUT$)/;

/** Codes of the system for a shortage in this process or on its host. */
const SHORTAGE_CODES: ReadonlySet<unknown> = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM']);

/**
 * Converts an error of undici or Node into a `ProviderError`, or into an `OverloadedError` if this process lacks a
 * descriptor, a port or memory. Returns unchanged these errors, the error of an abort, and every other error: that is
 * a fault of this service, for which no provider is to blame.
 * @param phase the part of the response that failed: before its headers, or its body
 */
export function networkError(error: unknown, phase: 'before_headers' | 'in_body'): unknown {
  if (error instanceof ProviderError || error instanceof OverloadedError) return error;
  const { code = '', name = '' } = error as { code?: string | number; name?: string };
  if (name === 'AbortError' || code === 'UND_ERR_ABORTED') return error;
  if (isShortage(error)) return new OverloadedError('descriptors', error);
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
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') {
    // Without a free descriptor, the resolver of the system reports that no name exists.
    if (!hasFreeDescriptor()) return new OverloadedError('descriptors', error);
    return failure('upstream_unreachable', 'dns');
  }
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

/** Returns true if this process, or its host, has nothing left that a connection needs. */
function isShortage(error: unknown): boolean {
  const { code, address, errors } = error as { code?: unknown; address?: unknown; errors?: unknown };
  if (SHORTAGE_CODES.has(code)) return true;
  // All local ports are taken. For an IPv6 address it means that this host has no IPv6.
  if (code === 'EADDRNOTAVAIL' && typeof address === 'string' && isIPv4(address)) return true;
  // A name has several addresses.
  return Array.isArray(errors) && errors.some(isShortage);
}

function hasFreeDescriptor(): boolean {
  try {
    closeSync(openSync('/dev/null', 'r'));
    return true;
  } catch (error) {
    return !SHORTAGE_CODES.has((error as NodeJS.ErrnoException).code);
  }
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
