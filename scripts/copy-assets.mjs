import { cpSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import ts from 'typescript';

/**
 * Copies what the compiler leaves out into the build: the playground page and the Lua scripts. Writes the modules of the
 * client without comments, because pages load them; the declarations beside them keep theirs.
 * Usage: `node scripts/copy-assets.mjs <output folder> [--link-page]`
 * With `--link-page` the page is a link, so that a change to it is served without a build.
 */

const [, , output, option] = process.argv;
if (output === undefined) throw new Error('usage: node scripts/copy-assets.mjs <output folder> [--link-page]');

const page = 'routes/playground/page';
rmSync(join(output, page), { recursive: true, force: true });
if (option === '--link-page') symlinkSync(resolve(page), join(output, page), 'junction');
else cpSync(page, join(output, page), { recursive: true });

for (const file of readdirSync('plugins', { recursive: true, encoding: 'utf8' })) {
  if (file.endsWith('.lua')) cpSync(join('plugins', file), join(output, 'plugins', file));
}

const { compilerOptions } = ts.readConfigFile('tsconfig.client.json', ts.sys.readFile).config;
for (const file of readdirSync('client')) {
  const { outputText } = ts.transpileModule(readFileSync(join('client', file), 'utf8'), {
    compilerOptions: {
      ...ts.convertCompilerOptionsFromJson(compilerOptions, '.').options,
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.ES2022,
      rewriteRelativeImportExtensions: true,
      removeComments: true,
    },
    fileName: file,
  });
  writeFileSync(join(output, 'client', file.replace(/\.ts$/, '.js')), outputText);
}
