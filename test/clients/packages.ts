import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

/** Clients that people use. Their packages have a folder of their own, because they are many and only these tests need them. */

const FOLDER = join(process.cwd(), 'test/clients');

const INSTALL = 'npm ci --prefix test/clients';

/** Reason to skip tests that need these packages; false if they are installed. */
export const noClients: string | false = existsSync(join(FOLDER, 'node_modules'))
  ? false
  : `the clients are not installed; run \`${INSTALL}\``;

/** Imports a package of `test/clients`. */
export async function load<T = Record<string, unknown>>(specifier: string): Promise<T> {
  const { load: importPackage } = await import(pathToFileURL(join(FOLDER, 'load.mjs')).href);
  return importPackage(specifier);
}

/** Returns a module for a browser, with everything that `source` imports from `folder`. It may contain JSX and types. */
export async function bundle(source: string, folder = FOLDER): Promise<string> {
  const { build } = await load<{ build(options: object): Promise<{ outputFiles: { text: string }[] }> }>('esbuild');
  const { outputFiles } = await build({
    stdin: { contents: source, resolveDir: folder, loader: 'tsx' },
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    jsx: 'automatic',
    loader: { '.css': 'empty' },
    define: { 'process.env.NODE_ENV': '"development"' },
    logLevel: 'silent',
  });
  return outputFiles[0]?.text ?? '';
}
