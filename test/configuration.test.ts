import { readFileSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { configurationReference } from '../scripts/config-reference.ts';

/** The table of settings in `docs/configuration.md` is generated from the schema by `npm run docs`. */

const FILE = 'docs/configuration.md';
const TABLE = /(<!-- settings:.*?-->\n).*?(<!-- \/settings -->)/s;

t.test('docs/configuration.md has the table of settings that the schema gives', async (t) => {
  const table = configurationReference();
  const before = readFileSync(FILE, 'utf8');
  t.match(before, TABLE, `${FILE} has the markers of the table`);
  const after = before.replace(TABLE, (_, begin, end) => `${begin}\n${table}\n\n${end}`);
  if (process.env.UPDATE_DOCS) writeFileSync(FILE, after);
  else t.equal(after, before, 'the table is up to date; else run `npm run docs`');
  for (const row of table.split('\n').slice(2)) t.notMatch(row, /\|\s*\|$/, `${row.split('|')[1]} has a description`);
});
