import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { FastifyPluginAsync } from 'fastify';

/**
 * The client for pages, as compiled JavaScript modules without comments. Public, because pages load it before they have a
 * ticket. Pages of other origins need an entry in `CORS_ORIGINS`, as for their questions.
 */

const FILES = ['client.js', 'client-ai.js'];

/** An hour: older versions of the client work with newer services. */
const CACHE = 'public, max-age=3600';

const client: FastifyPluginAsync = async (fastify) => {
  for (const name of FILES) {
    const text = await readFile(new URL(`../../client/${name}`, import.meta.url), 'utf8');
    const etag = `"${createHash('sha256').update(text).digest('base64url')}"`;
    const options = { schema: { hide: true }, logLevel: 'silent', exposeHeadRoute: true } as const;
    fastify.get(`/${name}`, options, (request, reply) => {
      reply.header('etag', etag).header('cache-control', CACHE).header('x-content-type-options', 'nosniff');
      if (isFresh(request.headers['if-none-match'], etag)) return reply.code(304).send();
      return reply.type('text/javascript; charset=utf-8').send(text);
    });
  }
};

/** Returns true if the client has this version. A gateway that compresses makes a tag weak. */
function isFresh(header: string | undefined, etag: string): boolean {
  return (header ?? '').split(/,\s*/).some((tag) => tag === '*' || tag.replace(/^W\//, '') === etag);
}

export default client;
