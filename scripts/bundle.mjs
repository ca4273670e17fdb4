import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { build } from 'esbuild';

/**
 * Bundles the compiled service and most of its packages into a few files, which start in half of the time: Node loads
 * some 600 modules otherwise. Usage: `node scripts/bundle.mjs <build folder>`. Writes `<build folder>/bundle/server.js`.
 *
 * What the service reads at run time (pages, Lua scripts, the worker that checks a changed configuration) stays where it
 * is, so the bundle needs the build folder and `node_modules` beside it. Bundles have no source maps: Node would parse
 * those of all packages at the start. Stack traces name functions: names are kept, and only white space is removed.
 */

const [, , folder] = process.argv;
if (folder === undefined) throw new Error('usage: node scripts/bundle.mjs <build folder>');
const outdir = resolve(folder, 'bundle');

/** Lets modules find their files relative to where they were, not to the bundle. */
const keepModuleUrls = {
  name: 'keep-module-urls',
  setup({ onLoad }) {
    onLoad({ filter: /\.js$/ }, ({ path }) => {
      if (relative(resolve(folder), path).includes('node_modules')) return undefined;
      const url = `new URL(${JSON.stringify(relative(outdir, path))}, import.meta.url).href`;
      return { contents: readFileSync(path, 'utf8').replaceAll('import.meta.url', url) };
    });
  },
};

/** Lets packages find their files: the pages of Swagger UI, the workers of pino. */
const keepPackageFolders = {
  name: 'keep-package-folders',
  setup({ onLoad }) {
    onLoad({ filter: /\/node_modules\/.*\.c?js$/ }, ({ path }) => {
      const contents = readFileSync(path, 'utf8');
      if (!/\b__dirname\b/.test(contents)) return undefined;
      const folder = JSON.stringify(relative(outdir, dirname(path)));
      return { contents: `const __dirname = require('node:path').join(bundleFolder, ${folder});\n${contents}` };
    });
  },
};

/**
 * Loads only the parts of undici that the service uses. Its index also loads `fetch`, WebSocket, mocks and more: half of
 * the package.
 */
const partOfUndici = {
  name: 'part-of-undici',
  setup({ onLoad, onResolve }) {
    onResolve({ filter: /^undici$/ }, () => ({ path: 'undici', namespace: 'part' }));
    onLoad({ filter: /.*/, namespace: 'part' }, () => ({ contents: UNDICI, resolveDir: resolve('.') }));
  },
};
// An import of another name is an error of the build.
const UNDICI = `
import Dispatcher from 'undici/lib/dispatcher/dispatcher.js';
import api from 'undici/lib/api/index.js';
Object.assign(Dispatcher.prototype, api);
export { default as Pool } from 'undici/lib/dispatcher/pool.js';
export { default as buildConnector } from 'undici/lib/core/connect.js';
`;

/**
 * Loads Node's own modules by `require`. An import reads every export, and those of `http` are also WebSocket and
 * MessageEvent, for which Node 26 loads its copy of undici: 13 MB and some 100 ms.
 */
const requireBuiltins = {
  name: 'require-builtins',
  setup({ onLoad, onResolve }) {
    onResolve({ filter: /^node:/ }, ({ path, kind }) =>
      kind === 'import-statement' ? { path, namespace: 'builtin' } : { path, external: true },
    );
    onLoad({ filter: /.*/, namespace: 'builtin' }, ({ path }) => ({
      contents: `module.exports = require(${JSON.stringify(path)});`,
    }));
  },
};

rmSync(outdir, { recursive: true, force: true });
await build({
  entryPoints: [resolve(folder, 'server.js')],
  outdir,
  bundle: true,
  splitting: true,
  minifyWhitespace: true,
  legalComments: 'external',
  platform: 'node',
  format: 'esm',
  target: 'node20',
  // Tracing is loaded only where it is used. What the API of OpenTelemetry holds is global, so two copies are one.
  external: ['@opentelemetry/sdk-trace-node', '@opentelemetry/exporter-trace-otlp-http', '@opentelemetry/resources'],
  // Packages in CommonJS call it for modules of Node.
  banner: {
    js: `import { createRequire } from 'node:module';
const require = createRequire(import.meta.url), bundleFolder = import.meta.dirname;`,
  },
  plugins: [keepModuleUrls, keepPackageFolders, partOfUndici, requireBuiltins],
  logLevel: 'warning',
});

const escaped = (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
// V8 keeps a source with one other character in two bytes for each.
for (const name of readdirSync(outdir)) {
  if (!name.endsWith('.js')) continue;
  const file = join(outdir, name);
  const code = readFileSync(file, 'utf8');
  writeFileSync(
    file,
    code.replace(/[^\p{ASCII}]/gu, (character) => character.split('').map(escaped).join('')),
  );
}
