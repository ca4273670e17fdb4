import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { Identity } from '../auth/identity.ts';
import { type BodySteps, createBodyTurns } from './body-turns.ts';
import { printableSuffix } from './errors.ts';
import { duplicateKey, isTooComplex, textLength } from './json-keys.ts';

export interface JsonBodyOptions {
  /** Most characters of text in one body. Files and images in base64 do not count. */
  readonly maxTextChars: number;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** True for a route whose body may be left out. It is then an empty object. */
    readonly hasOptionalBody?: boolean;
  }
}

type Done = (error: Error | null, body?: unknown) => void;

/** Bytes up to which a body is parsed as soon as it is complete. */
const SMALL_BODY_BYTES = 65_536;

/**
 * Parses JSON strictly, so that no two parsers read a body differently: valid UTF-8, no duplicate keys,
 * no `__proto__`. Rejects every other media type, because its body would bypass the schemas.
 */
export default fp<JsonBodyOptions>(
  async (fastify, { maxTextChars }) => {
    const { clock, log, invalidRequest } = fastify;
    const parse = fastify.getDefaultJsonParser('error', 'error');
    const turns = createBodyTurns({
      clock,
      onFault: (err) => log.error({ err }, 'parsing a body failed; its request is not answered'),
    });
    fastify.addHook('onClose', async () => turns.close());

    fastify.removeAllContentTypeParsers();
    fastify.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body, done) => {
      const charset = /;\s*charset\s*=\s*"?([^\s;"]+)/i.exec(request.headers['content-type'] ?? '')?.[1];
      if (charset !== undefined && !isUtf8(charset)) {
        return done(invalidRequest('Send the body as UTF-8.', 415));
      }
      if (body.length === 0 && request.routeOptions.config.hasOptionalBody) return done(null, {});
      const steps = parseSteps(request, body as Buffer, done);
      if (body.length > SMALL_BODY_BYTES) {
        turns.add((request.identity as Identity | undefined)?.owner ?? '', steps);
        return;
      }
      while (steps.next().done !== true);
    });

    /** Parses a body. Each step is linear, and short enough for one turn of the event loop. */
    function* parseSteps(request: FastifyRequest, body: Buffer, done: Done): BodySteps {
      if (request.raw.socket.destroyed) return done(invalidRequest('The client has disconnected.'));
      let text: string;
      try {
        text = new TextDecoder('utf-8', { fatal: true }).decode(body);
      } catch {
        return done(invalidRequest('The body is not valid UTF-8.'));
      }
      yield;
      if (isTooComplex(text)) {
        return done(invalidRequest('The body is nested too deeply, or has too many objects, arrays or fields.'));
      }
      yield;
      let error: Error | null = null;
      let value: unknown;
      parse(request, text, (parseError, parsed) => {
        error = parseError;
        value = parsed;
      });
      if (error !== null) return done(error);
      yield;
      const duplicate = duplicateKey(text);
      if (duplicate !== undefined) {
        return done(invalidRequest(`Duplicate field in the body${printableSuffix(duplicate)}.`));
      }
      yield;
      if (textLength(value) > maxTextChars) {
        return done(invalidRequest(`The text of the body is too long; at most ${maxTextChars} characters.`, 413));
      }
      yield;
      done(null, value);
    }

    fastify.addHook('preValidation', async (request) => {
      // `null` in JSON is a body, and a wrong one.
      if (request.routeOptions.config.hasOptionalBody && request.body === undefined) request.body = {};
    });
  },
  { name: 'json-body', dependencies: ['clock', 'errors'] },
);

/** Returns true for a label of UTF-8, such as `utf8`. https://encoding.spec.whatwg.org/#names-and-labels */
function isUtf8(label: string): boolean {
  try {
    return new TextDecoder(label).encoding === 'utf-8';
  } catch {
    return false;
  }
}
