/** Public model names: no `..`, no `%`, no `?`, so that none can bend an upstream path. */
export const MODEL_NAME = '^(?!.*\\.\\.)[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$';
