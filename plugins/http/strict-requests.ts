import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';

/** Longest URL in bytes. A question of 900 Chinese characters fits. */
const MAX_URL_LENGTH = 8_192;
const MAX_HEADERS = 100;
/** Headers that must not occur more than once. */
const SINGLE_VALUE_HEADERS = ['host', 'authorization', 'last-event-id', 'content-type', 'content-length', 'origin'];

/** Rejects requests that Node's parser accepts but that a gateway could read differently. */
export default fp(
  async (fastify) => {
    fastify.addHook('onRequest', async (request) => {
      const { raw } = request;
      if (request.url.length > MAX_URL_LENGTH) throw invalid(414, 'The URL is too long.');
      if (raw.rawHeaders.length / 2 > MAX_HEADERS) throw invalid(431, 'Too many headers.');
      const duplicate = duplicateHeader(request);
      if (duplicate !== undefined) throw invalid(400, `Duplicate header: ${duplicate}.`);
      if (raw.headers.host === undefined && raw.httpVersion === '1.1') throw invalid(400, 'Missing header: host.');
      if (raw.method === 'GET' && hasBody(request)) throw invalid(400, 'A GET request must not have a body.');
      const encoding = raw.headers['content-encoding'];
      if (encoding !== undefined && encoding !== 'identity')
        throw invalid(415, 'Send the body without Content-Encoding.');
    });

    const invalid = (status: number, message: string) => fastify.apiError({ status, code: 'invalid_request', message });
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
