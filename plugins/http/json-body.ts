import fp from 'fastify-plugin';
import { duplicateKey, isTooComplex } from './json-keys.ts';

/**
 * Parses JSON strictly, so that no two parsers read a body differently: valid UTF-8, no duplicate keys,
 * no `__proto__`. Rejects every other media type, because its body would bypass the schemas.
 */
export default fp(
  async (fastify) => {
    const parse = fastify.getDefaultJsonParser('error', 'error');
    const invalid = (status: number, message: string) => fastify.apiError({ status, code: 'invalid_request', message });

    fastify.removeAllContentTypeParsers();
    fastify.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body, done) => {
      const charset = /;\s*charset\s*=\s*"?([^\s;"]+)/i.exec(request.headers['content-type'] ?? '')?.[1];
      if (charset !== undefined && charset.toLowerCase() !== 'utf-8') {
        return done(invalid(415, 'Send the body as UTF-8.'));
      }
      let text: string;
      try {
        text = new TextDecoder('utf-8', { fatal: true }).decode(body as Buffer);
      } catch {
        return done(invalid(400, 'The body is not valid UTF-8.'));
      }
      if (isTooComplex(text))
        return done(invalid(400, 'The body is nested too deeply or has too many objects and arrays.'));
      parse(request, text, (error, value) => {
        const duplicate = error === null ? duplicateKey(text) : undefined;
        if (duplicate !== undefined) done(invalid(400, `Duplicate field in the body${printableName(duplicate)}.`));
        else done(error, value);
      });
    });
  },
  { name: 'json-body', dependencies: ['errors'] },
);

/** Returns the name for a message if it is a plain word. Anything else may be part of a question. */
function printableName(name: string): string {
  return /^[\w.-]{1,40}$/.test(name) ? `: ${name}` : '';
}
