import { Readable } from 'node:stream';
import type { FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import type { BodyClaim } from './memory-budget.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** True for a route that counts its requests itself, when it knows who pays. */
    countsLater?: boolean;
  }
  interface FastifyRequest {
    /** The memory of the body. Undefined without a body. */
    bodyClaim: BodyClaim | undefined;
    /** Drops the parsed body and releases the request's hold on its memory. Idempotent. */
    dropBody(): void;
  }
}

/**
 * Claims memory for each body before it is read: by its `Content-Length`, or as it grows.
 *
 * Counts each request to a route with access `api` or `ask`, before its body is read: a body that is wrong or too long
 * costs as much as a good one. Routes with `countsLater` call `countRequest` themselves, as `GET /ask/stream` does for a
 * question, and the routes that read or stop a stream if it is unknown. A request that they refuse before that is
 * counted when it is refused.
 */
export default fp(
  async (scope) => {
    scope.addHook('onRequest', async ({ identity, routeOptions }, reply) => {
      const { access, countsLater = false } = routeOptions.config;
      if (countsLater || (access !== 'api' && access !== 'ask')) return;
      // An expired ticket can only resume, which costs its key nothing.
      if (identity.resumeOnly) await scope.limits.countGuess(identity, reply);
      else await scope.limits.countRequest(identity, reply);
    });

    scope.addHook('onError', async ({ identity }, reply, { statusCode = 500 }) => {
      const isCounted = reply.hasHeader('ratelimit-limit');
      const isRefusal = statusCode >= 400 && statusCode < 500;
      // Without valid credentials there is nobody to charge.
      if (identity === undefined || isCounted || !isRefusal) return;
      // The refusal stays what it is if the limit is reached.
      await scope.limits.countGuess(identity, reply).catch(() => {});
    });

    scope.decorateRequest('bodyClaim', undefined);
    scope.decorateRequest('dropBody', function dropBody() {
      this.body = undefined;
      releases.get(this)?.();
    });
    const releases = new WeakMap<object, () => void>();

    scope.addHook('onRequest', async (request, reply) => {
      const { headers, identity, routeOptions } = request;
      const length = Number(headers['content-length'] ?? 0);
      const isChunked = headers['transfer-encoding'] !== undefined;
      // A body that is too large is refused by its length.
      if (!isChunked && (length === 0 || length > routeOptions.bodyLimit)) return;
      const claim = scope.limits.claimBody(identity);
      if (!isChunked) scope.limits.growClaim(claim, length);
      request.bodyClaim = claim;
      const release = claim.hold();
      releases.set(request, release);
      onceClosed(reply, release);
    });

    scope.addHook('preParsing', async (request, _, payload) => {
      const { bodyClaim, headers } = request;
      if (bodyClaim === undefined || headers['transfer-encoding'] === undefined) return payload;
      return Readable.from(growing(payload as Readable, (bytes) => scope.limits.growClaim(bodyClaim, bytes)));
    });
  },
  { name: 'limits-scope', dependencies: ['limits', 'auth-scope'] },
);

/** Passes a body on, and calls `grow` before each part. Leaves the payload open if `grow` throws, for the reply. */
async function* growing(payload: Readable, grow: (bytes: number) => void): AsyncGenerator<Buffer> {
  for await (const chunk of payload.iterator({ destroyOnReturn: false })) {
    grow((chunk as Buffer).length);
    yield chunk as Buffer;
  }
}

/** Calls `listener` when the response or its connection has closed. */
function onceClosed({ raw, request }: FastifyReply, listener: () => void): void {
  const { socket } = request.raw;
  const onClose = () => {
    raw.off('close', onClose);
    // A pipelined response gets its socket only when the response before it has ended.
    socket.off('close', onClose);
    listener();
  };
  raw.once('close', onClose);
  socket.once('close', onClose);
}
