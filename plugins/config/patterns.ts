/** Public model names. Excludes `..`, `%` and `?`, so that no name can change the path of an upstream URL. */
export const MODEL_NAME = '^(?!.*\\.\\.)[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$';

/** Control characters except line breaks and tabs, and characters without a width. */
export const INVISIBLE = /(?![\t\r\n])[\p{Cc}\p{Cf}\u2028\u2029]/u;
