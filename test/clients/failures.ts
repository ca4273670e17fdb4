import type { ServerResponse } from 'node:http';
import { DONE, STOP, sse, text } from '../upstream.ts';

/** Failures of a provider, and what the caller of an SDK has to see. */

export interface Failure {
  /** Answers a call as the failing provider. */
  answer(response: ServerResponse): void;
  /** True if asking again cannot help: one call, whatever the SDK does. */
  readonly isPermanent: boolean;
  /** Calls of Sluice for one request. */
  readonly tries: number;
  /** Status, if no text has been sent. */
  readonly status: number;
  /** Text before the failure. */
  readonly text?: string;
}

const refuse =
  (status: number, code = 'x') =>
  (response: ServerResponse) => {
    const body = JSON.stringify({ error: { message: 'SECRET', type: code, code } });
    response.writeHead(status, { 'content-type': 'application/json' }).end(body);
  };
const inBand = (code: string) => `data: ${JSON.stringify({ error: { message: 'SECRET', type: code, code } })}\n\n`;
const send =
  (...events: string[]) =>
  (response: ServerResponse) =>
    void sse(response).end(events.join(''));
const cut =
  (...events: string[]) =>
  (response: ServerResponse) =>
    void sse(response).write(events.join(''), () => response.destroy());

const permanent = (status: number, answer: Failure['answer']) => ({ isPermanent: true, tries: 1, status, answer });
const temporary = (status: number, tries: number, answer: Failure['answer']) => ({
  isPermanent: false,
  tries,
  status,
  answer,
});

/** Longest answer of the service in the tests, in characters. */
export const MAX_CHARS = 1_024;

export const FAILURES: Readonly<Record<string, Failure>> = {
  '400': permanent(400, refuse(400)),
  '401': permanent(403, refuse(401)),
  '402': permanent(402, refuse(402)),
  '403': permanent(403, refuse(403)),
  '404': permanent(400, refuse(404)),
  '404 model': permanent(404, refuse(404, 'model_not_found')),
  '409 x-should-retry': permanent(400, (response) => {
    response.writeHead(409, { 'x-should-retry': 'false' }).end();
  }),
  '413': permanent(400, refuse(413)),
  '422': permanent(400, refuse(422)),
  '429 no credit': permanent(402, refuse(429, 'insufficient_quota')),
  '501': permanent(400, refuse(501)),
  'error before the first token': permanent(402, send(inBand('insufficient_quota'))),
  'request error before the first token': permanent(400, send(inBand('invalid_request_error'))),
  'too long': permanent(400, send(text('x'.repeat(2 * MAX_CHARS)), STOP, DONE)),
  '429': temporary(429, 2, refuse(429, 'rate_limit_exceeded')),
  '500': temporary(502, 2, refuse(500)),
  '503': temporary(502, 2, refuse(503)),
  'cut before the first token': temporary(502, 2, cut(': hi\n\n')),
  'time-out': temporary(504, 1, (response) => void sse(response).write(': hi\n\n')),
  'error in the middle': { ...temporary(502, 1, send(text('half'), inBand('server_error'))), text: 'half' },
  'cut in the middle': { ...temporary(502, 1, cut(text('half'))), text: 'half' },
  'end without a finish reason': { ...temporary(502, 1, send(text('half'))), text: 'half' },
};
