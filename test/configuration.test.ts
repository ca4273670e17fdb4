import { readFileSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { configurationReference } from '../scripts/config-reference.ts';

/** `docs/configuration.md` says what the schema says. `npm run docs` writes it. */

const FILE = 'docs/configuration.md';
const PLACE = /(<!-- settings:.*?-->\n).*?(<!-- \/settings -->)/s;

t.test('the table of settings is the schema', async (t) => {
  const table = configurationReference();
  const before = readFileSync(FILE, 'utf8');
  t.match(before, PLACE);
  const after = before.replace(PLACE, (_, begin, end) => `${begin}\n${table}\n\n${end}`);
  if (process.env.UPDATE_DOCS) writeFileSync(FILE, after);
  else t.equal(after, before, 'run `npm run docs`');
  for (const row of table.split('\n').slice(2)) t.notMatch(row, /\|\s*\|$/, `${row.split('|')[1]} is explained`);
});
