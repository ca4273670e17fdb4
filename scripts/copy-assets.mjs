import { cpSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Copies what the compiler leaves out into the build: the playground page and the Lua scripts.
 * Usage: `node scripts/copy-assets.mjs <output folder>`
 */

const [, , output] = process.argv;
if (output === undefined) throw new Error('usage: node scripts/copy-assets.mjs <output folder>');

const page = 'routes/playground/page';
cpSync(page, join(output, page), { recursive: true });
for (const file of readdirSync('plugins', { recursive: true, encoding: 'utf8' })) {
  if (file.endsWith('.lua')) cpSync(join('plugins', file), join(output, 'plugins', file));
}
