import { randomUUID } from 'node:crypto';
import { type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { envelope, type PublicError } from './error-shapes.ts';

/** What Node's parser refuses before there is a request: the same envelope as everywhere, and the end. */

const CLIENT_ERRORS: Readonly<Record<string, PublicError>> = {
  HPE_HEADER_OVERFLOW: { status: 431, code: 'invalid_request', message: 'The headers or the URL are too long.' },
  ERR_HTTP_REQUEST_TIMEOUT: { status: 408, code: 'invalid_request', message: 'The request did not come in time.' },
};

const MALFORMED: PublicError = {
  status: 400,
  code: 'invalid_request',
  message: 'This is not a valid HTTP/1.1 request.',
};
const UNKNOWN_EXPECTATION: PublicError = {
  status: 417,
  code: 'invalid_request',
  message: 'Only 100-continue can be expected.',
};

export function handleClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  // A reset has nobody left to answer, and a response that has begun must not be broken into.
  const answered = (socket as Socket & { _httpMessage?: ServerResponse })._httpMessage?.headersSent === true;
  if (error.code === 'ECONNRESET' || !socket.writable || answered) {
    socket.destroy();
    return;
  }
  const refusal = CLIENT_ERRORS[error.code ?? ''] ?? MALFORMED;
  const { head, body } = errorResponse(refusal);
  const lines = Object.entries(head).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${refusal.status} ${STATUS_CODES[refusal.status]}\r\n${lines.join('')}\r\n${body}`);
}

/** Node answers an unknown `Expect` by itself, and without a body. */
export function rejectUnknownExpectations(server: Server): void {
  server.on('checkExpectation', (_: IncomingMessage, response: ServerResponse) => {
    const { head, body } = errorResponse(UNKNOWN_EXPECTATION);
    response.writeHead(UNKNOWN_EXPECTATION.status, head).end(body);
  });
}

function errorResponse(refusal: PublicError) {
  const id = randomUUID();
  const body = JSON.stringify(envelope(refusal, id));
  const head = {
    'content-type': 'application/json; charset=utf-8',
    'content-length': String(Buffer.byteLength(body)),
    'x-request-id': id,
    connection: 'close',
  };
  return { head, body };
}
