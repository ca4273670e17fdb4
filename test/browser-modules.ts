import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, sep } from 'node:path';

/** Packages of the project as modules of a browser, without a bundler. */

const ROOT = process.cwd();
const PREFIX = '/node_modules/';

/** Packages that a page has as a script, or does not need. */
const REPLACED: Record<string, string> = {
  react: `const { useCallback, useEffect, useId, useMemo, useRef, useState, useSyncExternalStore, StrictMode } = React;
export { useCallback, useEffect, useId, useMemo, useRef, useState, useSyncExternalStore, StrictMode };
export default React;`,
  // Of the other hooks of `@ai-sdk/react`.
  swr: 'export default () => ({});',
  throttleit: 'export default (call) => call;',
  '@vercel/oidc': 'export const getContext = () => ({}), getVercelOidcToken = async () => undefined;',
};

/** Returns the URL under which a module of the project's packages is served to a page. */
export function moduleUrl(specifier: string, parent: string = join(ROOT, 'package.json')): string {
  if (specifier in REPLACED) return `${PREFIX}${specifier}/replaced.js`;
  const file = asModule(createRequire(parent).resolve(specifier));
  return file.slice(ROOT.length).split(sep).join('/');
}

const texts = new Map<string, string | undefined>();

/** Returns the text of a served module, with the URLs of what it imports; undefined for any other path. */
export function readModule(path: string): string | undefined {
  if (!path.startsWith(PREFIX)) return undefined;
  if (!texts.has(path)) texts.set(path, compileModule(path));
  return texts.get(path);
}

function compileModule(path: string): string | undefined {
  const replaced = REPLACED[path.slice(PREFIX.length).replace('/replaced.js', '')];
  if (replaced !== undefined) return withUrls(replaced);
  // Some packages import their own files without an extension.
  const files = [path, `${path}.js`, `${path}/index.js`].map((name) => join(ROOT, name));
  const file = files.find((name) => /js$/.test(name) && existsSync(name));
  return file && withUrls(readFileSync(file, 'utf8'), file);
}

/** Replaces the packages that a module imports by their URLs. */
export function withUrls(source: string, file?: string): string {
  return source.replace(
    /^((?:import|export|\}).*\bfrom |import )(["'])([^"'./][^"']*)\2;?$/gm,
    (_, before, quote, specifier) => `${before}${quote}${moduleUrl(specifier, file)}${quote};`,
  );
}

/** Returns the ES module beside a CommonJS file. */
function asModule(file: string): string {
  const candidates = [
    file.replace(/\.js$/, '.mjs'),
    file.replace(/\.cjs$/, '.js'),
    file.replace(`${sep}build${sep}src${sep}`, `${sep}build${sep}esm${sep}`),
  ];
  return candidates.find((name) => name !== file && existsSync(name)) ?? file;
}
