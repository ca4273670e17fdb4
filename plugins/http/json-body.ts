import fp from 'fastify-plugin';
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

/**
 * Parses JSON strictly, so that no two parsers read a body differently: valid UTF-8, no duplicate keys,
 * no `__proto__`. Rejects every other media type, because its body would bypass the schemas.
 */
export default fp<JsonBodyOptions>(
  async (fastify, { maxTextChars }) => {
    const parse = fastify.getDefaultJsonParser('error', 'error');

    fastify.removeAllContentTypeParsers();
    fastify.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body, done) => {
      const charset = /;\s*charset\s*=\s*"?([^\s;"]+)/i.exec(request.headers['content-type'] ?? '')?.[1];
      if (charset !== undefined && charset.toLowerCase() !== 'utf-8') {
        return done(fastify.invalidRequest('Send the body as UTF-8.', 415));
      }
      if (body.length === 0 && request.routeOptions.config.hasOptionalBody) return done(null, {});
      let text: string;
      try {
        text = new TextDecoder('utf-8', { fatal: true }).decode(body as Buffer);
      } catch {
        return done(fastify.invalidRequest('The body is not valid UTF-8.'));
      }
      if (isTooComplex(text))
        return done(
          fastify.invalidRequest('The body is nested too deeply, or has too many objects, arrays or fields.'),
        );
      parse(request, text, (error, value) => {
        const duplicate = error === null ? duplicateKey(text) : undefined;
        if (duplicate !== undefined)
          done(fastify.invalidRequest(`Duplicate field in the body${printableSuffix(duplicate)}.`));
        else if (error === null && textLength(value) > maxTextChars)
          done(fastify.invalidRequest(`The text of the body is too long; at most ${maxTextChars} characters.`, 413));
        else done(error, value);
      });
    });

    fastify.addHook('preValidation', async (request) => {
      // `null` in JSON is a body, and a wrong one.
      if (request.routeOptions.config.hasOptionalBody && request.body === undefined) request.body = {};
    });
  },
  { name: 'json-body', dependencies: ['errors'] },
);
