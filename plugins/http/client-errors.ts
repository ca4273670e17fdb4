import { randomUUID } from 'node:crypto';
import { type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { PublicError } from './api.ts';
import { envelope } from './errors.ts';

/** Errors that Node's HTTP parser finds before there is a Fastify request. */

const CLIENT_ERRORS: Readonly<Record<string, PublicError>> = {
  HPE_HEADER_OVERFLOW: { status: 431, code: 'invalid_request', message: 'The headers or the URL are too long.' },
  ERR_HTTP_REQUEST_TIMEOUT: { status: 408, code: 'invalid_request', message: 'The request timed out.' },
};

const MALFORMED: PublicError = {
  status: 400,
  code: 'invalid_request',
  message: 'The request is not valid HTTP/1.1.',
};
const UNKNOWN_EXPECTATION: PublicError = {
  status: 417,
  code: 'invalid_request',
  message: 'Unknown Expect header; only 100-continue is supported.',
};

/**
 * Returns Fastify's `clientErrorHandler`: answers with the JSON envelope and closes the connection.
 * @param count called with the status of each answer, because Fastify has no hook for it
 */
export function createClientErrorHandler(count: (status: number) => void) {
  return (error: NodeJS.ErrnoException, socket: Socket): void => {
    // A reset connection cannot be answered, and a response that has begun must not be interrupted.
    const hasBegun = (socket as Socket & { _httpMessage?: ServerResponse })._httpMessage?.headersSent === true;
    if (error.code === 'ECONNRESET' || !socket.writable || hasBegun) {
      socket.destroy();
      return;
    }
    const publicError = CLIENT_ERRORS[error.code ?? ''] ?? MALFORMED;
    const { headers, body } = errorResponse(publicError);
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    const { status } = publicError;
    socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${body}`);
    count(status);
  };
}

/** Answers an unknown `Expect` header with the JSON envelope, and counts it. Node's own answer has no body. */
export function rejectUnknownExpectations(server: Server, count: (status: number) => void): void {
  server.on('checkExpectation', (_: IncomingMessage, response: ServerResponse) => {
    const { status } = UNKNOWN_EXPECTATION;
    const { headers, body } = errorResponse(UNKNOWN_EXPECTATION);
    response.writeHead(status, headers).end(body);
    count(status);
  });
}

function errorResponse(error: PublicError) {
  const id = randomUUID();
  const body = JSON.stringify(envelope(error, id));
  const headers = {
    'content-type': 'application/json; charset=utf-8',
    'content-length': String(Buffer.byteLength(body)),
    'x-request-id': id,
    connection: 'close',
  };
  return { headers, body };
}
