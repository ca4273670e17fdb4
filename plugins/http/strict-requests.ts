import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';

/** Longest URL, in bytes. A question of 900 Chinese characters fits. */
const MAX_URL_LENGTH = 8_192;
/** Most header lines of one request. */
const MAX_HEADERS = 100;
/** Headers that must not occur more than once. */
const SINGLE_VALUE_HEADERS = ['host', 'authorization', 'last-event-id', 'content-type', 'content-length', 'origin'];

/** Rejects requests that a gateway could read differently, and requests with too long a URL or too many headers. */
export default fp(
  async (fastify) => {
    fastify.addHook('onRequest', async (request) => {
      const { raw } = request;
      if (request.url.length > MAX_URL_LENGTH) throw fastify.invalidRequest('The URL is too long.', 414);
      if (raw.rawHeaders.length / 2 > MAX_HEADERS) throw fastify.invalidRequest('Too many headers.', 431);
      const duplicate = duplicateHeader(request);
      if (duplicate !== undefined) throw fastify.invalidRequest(`Duplicate header: ${duplicate}.`);
      if (raw.headers.host === undefined && raw.httpVersion === '1.1')
        throw fastify.invalidRequest('Missing header: host.');
      if (raw.method === 'GET' && hasBody(request)) throw fastify.invalidRequest('A GET request must not have a body.');
      const encoding = raw.headers['content-encoding'];
      if (encoding !== undefined && encoding !== 'identity')
        throw fastify.invalidRequest('Send the body without Content-Encoding.', 415);
    });
  },
  { name: 'strict-requests', dependencies: ['errors'] },
);

function hasBody({ raw: { headers } }: FastifyRequest): boolean {
  const length = headers['content-length'];
  return headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0');
}

/** Returns the name of a duplicate header. Node joins some duplicates and drops others. */
function duplicateHeader({ raw: { rawHeaders } }: FastifyRequest): string | undefined {
  const seen = new Set<string>();
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = (rawHeaders[i] as string).toLowerCase();
    if (!SINGLE_VALUE_HEADERS.includes(name)) continue;
    if (seen.has(name)) return name;
    seen.add(name);
  }
  return undefined;
}
