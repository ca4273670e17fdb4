import type { ValueError } from '@sinclair/typebox/value';
import { MAX_FILE_BYTES, TOO_LARGE } from './files.ts';

/** Messages about values that are not valid. They never repeat a value, which may be a secret. */

/** Control characters except line breaks and tabs, and characters without a width. */
export const INVISIBLE = /(?![\t\r\n])[\p{Cc}\p{Cf}\u2028\u2029]/u;

/** Reasons for which a text does not match a pattern, with a character that the pattern must reject. */
const REASONS: readonly [found: RegExp, character: string, reason: string][] = [
  [/^\s*Bearer\s/i, ' ', 'starts with "Bearer"; write the key alone'],
  [INVISIBLE, '\u200b', 'contains an invisible character'],
  [/[\r\n]/, '\n', 'contains a line break'],
  [/\s/, ' ', 'contains a space'],
  [/["'`\u201c\u201d\u2018\u2019]/, '"', 'contains a quotation mark'],
  [/\P{ASCII}/u, '\u00e9', 'contains a character that is not ASCII'],
];

/** Returns the problem of a value. Names the choices of a union of literals; TypeBox only says "expected union value". */
export function describeError({ schema, message, value }: ValueError): string {
  const literals = (schema.anyOf as { const?: unknown }[] | undefined)?.map((one) => one.const);
  if (literals?.every((literal) => literal !== undefined)) return `must be one of ${literals.join(', ')}`;
  if (schema.format === REDIS_URL) return describeRedisUrl(String(value)) ?? 'not valid';
  const { pattern, description } = schema as { pattern?: string; description?: string };
  const hint = description === undefined ? '' : ` (${description})`;
  if (pattern === undefined || typeof value !== 'string') return `${message}${hint}`.replace(/^E/, 'e');
  const reason = reasonFor(value, pattern);
  return reason === undefined ? `not valid${hint}` : `not valid: ${reason}`;
}

function reasonFor(text: string, pattern: string): string | undefined {
  if (text === '') return 'is empty';
  const expression = new RegExp(pattern);
  const found = REASONS.find(([found, character]) => found.test(text) && !expression.test(character));
  if (found !== undefined) return found[2];
  const isUrl = pattern.startsWith('^https?://');
  return isUrl && !/^https?:\/\//.test(text) ? 'must start with https:// or http://' : undefined;
}

/** Name of the format of addresses of Redis in the schema. */
export const REDIS_URL = 'redis-url';

/** Returns the problem of an address of Redis, as ioredis reads it; undefined if there is none. */
export function describeRedisUrl(text: string): string | undefined {
  if (!/^rediss?:\/\//.test(text)) return 'must start with redis://, or rediss:// for TLS';
  if (INVISIBLE.test(text)) return 'contains an invisible character';
  if (/\s/.test(text)) return 'contains a space; in a password write %20';
  // A `/`, `#` or `?` ends the part with the password, and what follows it would be read as path or query.
  const [authority = ''] = text.slice(text.indexOf('//') + 2).split(/[/?#]/, 1);
  const rest = text.slice(text.indexOf('//') + 2 + authority.length);
  const isSplit = rest.includes('@') || rest.includes('#');
  if (isSplit || !URL.canParse(text) || !isEncoded(authority)) {
    return 'must be redis://[user:password@]host[:port][/database]; in the password write %2F for /, %23 for #, %3F for ? and %25 for %';
  }
  const { hostname, pathname } = new URL(text);
  if (hostname === '') return 'has no host';
  return /^\/?\d*$/.test(pathname) ? undefined : 'the database after the host must be a number';
}

function isEncoded(text: string): boolean {
  return !/%(?![0-9A-Fa-f]{2})/.test(text) && isDecodable(text);
}

function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}

/** Returns why a file cannot be read. */
export function describeFileError(error: unknown): string {
  const { code } = error as NodeJS.ErrnoException;
  if (code === TOO_LARGE) return `the file has more than ${MAX_FILE_BYTES} bytes`;
  return code === 'ENOENT' ? 'file not found' : `cannot be read (${code ?? 'unknown reason'})`;
}
