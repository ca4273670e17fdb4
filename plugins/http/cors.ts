import cors from '@fastify/cors';
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';

export interface CorsOptions {
  /** Origins whose pages may call, or `*` for all. If empty, only pages of the same origin may. */
  readonly origins: readonly string[];
}

/** Response headers that pages of other origins may read. The OpenAI SDK needs `x-should-retry` to stop retrying. */
const EXPOSED_HEADERS = [
  'location',
  'retry-after',
  'x-should-retry',
  'x-request-id',
  'x-sluice-stream',
  'x-workflow-run-id',
  'x-workflow-stream-tail-index',
  'ratelimit-limit',
  'ratelimit-remaining',
  'ratelimit-reset',
];

/** Allows cross-origin calls from the configured origins and rejects all others with 403. */
export default fp<CorsOptions>(
  async (fastify, { origins }) => {
    const allowsAll = origins.includes('*');

    // Runs before the CORS headers are set, so that a rejected origin does not see them.
    fastify.addHook('onRequest', async (request) => {
      const { origin } = request.headers;
      const isPreflight = origin !== undefined && request.headers['access-control-request-method'] !== undefined;
      if (request.method === 'OPTIONS' && !isPreflight) {
        throw fastify.httpErrors.notFound('OPTIONS is only supported for CORS preflight requests.');
      }
      if (origin === undefined || allowsAll || origins.includes(origin) || isSameOrigin(request, origin)) return;
      throw fastify.httpErrors.forbidden('Pages of this origin may not call this service; see CORS_ORIGINS.');
    });

    await fastify.register(cors, {
      origin: allowsAll ? '*' : [...origins],
      methods: ['GET', 'POST', 'DELETE'],
      exposedHeaders: EXPOSED_HEADERS,
      maxAge: 86_400,
    });
  },
  { name: 'cors', dependencies: ['errors'] },
);

/** Returns true for a page of the same origin. Trusts `Sec-Fetch-Site` too, because a gateway may replace `Host`. */
function isSameOrigin({ headers, host }: FastifyRequest, origin: string): boolean {
  if (headers['sec-fetch-site'] === 'same-origin') return true;
  return URL.canParse(origin) && new URL(origin).host === host;
}
