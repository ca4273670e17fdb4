import { cpSync, existsSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';

/** Completes `build/` after `tsc`: adds the playground page and the Lua scripts, and removes old output. */

const OUT = 'build';
const PAGE = 'routes/playground/page';

// A link, so that a change to the page is served without a build.
rmSync(join(OUT, PAGE), { recursive: true, force: true });
symlinkSync(resolve(PAGE), join(OUT, PAGE), 'junction');

for (const file of readdirSync('plugins', { recursive: true, encoding: 'utf8' })) {
  if (file.endsWith('.lua')) cpSync(join('plugins', file), join(OUT, 'plugins', file));
}

// Without this, the test of a deleted or renamed source would still run.
for (const entry of readdirSync(OUT, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile() || !entry.name.endsWith('.js.map')) continue;
  const map = join(entry.parentPath, entry.name);
  const source = relative(OUT, map).replace(/\.js\.map$/, '.ts');
  if (existsSync(source)) continue;
  rmSync(map);
  rmSync(map.replace(/\.map$/, ''), { force: true });
}
