import { readFileSync, rmSync } from 'node:fs';
import { relative, resolve } from 'node:path';
import { build } from 'esbuild';

/**
 * Bundles the compiled service and most of its packages into a few files, which start in half of the time: Node loads
 * some 600 modules otherwise. Usage: `node scripts/bundle.mjs <build folder>`. Writes `<build folder>/bundle/server.js`.
 *
 * What the service reads at run time (pages, Lua scripts, the worker that checks a changed configuration) stays where it
 * is, so the bundle needs the build folder and `node_modules` beside it. Bundles have no source maps: Node would parse
 * those of all packages at the start. Stack traces name functions, and the bundle is not minified.
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

rmSync(outdir, { recursive: true, force: true });
await build({
  entryPoints: [resolve(folder, 'server.js')],
  outdir,
  bundle: true,
  splitting: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  // The first load files of their own by their place. Tracing is loaded only where it is used.
  external: ['pino', '@fastify/swagger-ui', '@fastify/static', '@opentelemetry/*'],
  // Packages in CommonJS call it for modules of Node.
  banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
  plugins: [keepModuleUrls],
  logLevel: 'warning',
});
