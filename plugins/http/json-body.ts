import fp from 'fastify-plugin';
import { duplicateKey, isTooComplex } from './json-keys.ts';

/**
 * JSON as two readers cannot understand it differently: valid UTF-8, no key twice, no `__proto__`. Any
 * other type is refused, since a parser for it would let a body past the schemas.
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
      if (isTooComplex(text)) return done(invalid(400, 'The body is nested too deeply, or has too many parts.'));
      parse(request, text, (error, value) => {
        const duplicate = error === null ? duplicateKey(text) : undefined;
        if (duplicate !== undefined) done(invalid(400, `The body has a field twice${printableName(duplicate)}.`));
        else done(error, value);
      });
    });
  },
  { name: 'json-body', dependencies: ['errors'] },
);

/** A name that is a plain word; anything else may be somebody's text. */
function printableName(name: string): string {
  return /^[\w.-]{1,40}$/.test(name) ? `: ${name}` : '';
}
