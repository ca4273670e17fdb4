import type { ValueError } from '@sinclair/typebox/value';
import { MAX_FILE_BYTES, TOO_LARGE } from './files.ts';
import { INVISIBLE } from './patterns.ts';
import { describeRedisUrl, REDIS_URL } from './redis-url.ts';

/** Messages about values that are not valid. They never repeat a value, which may be a secret. */

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

/** Returns why a file cannot be read. */
export function describeFileError(error: unknown): string {
  const { code } = error as NodeJS.ErrnoException;
  if (code === TOO_LARGE) return `the file has more than ${MAX_FILE_BYTES} bytes`;
  return code === 'ENOENT' ? 'file not found' : `cannot be read (${code ?? 'unknown reason'})`;
}
