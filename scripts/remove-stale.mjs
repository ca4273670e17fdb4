import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';

/**
 * Removes the output of deleted and renamed sources, whose tests would still run.
 * Usage: `node scripts/remove-stale.mjs <output folder>`
 */

const [, , output] = process.argv;
if (output === undefined) throw new Error('usage: node scripts/remove-stale.mjs <output folder>');

for (const entry of readdirSync(output, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile() || !entry.name.endsWith('.js.map')) continue;
  const map = join(entry.parentPath, entry.name);
  const source = relative(output, map).replace(/\.js\.map$/, '.ts');
  if (existsSync(source)) continue;
  rmSync(map);
  rmSync(map.replace(/\.map$/, ''), { force: true });
}
