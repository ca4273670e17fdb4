import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { CLIENTS, COLUMNS, renderTable } from './table.ts';

/** The table of docs/clients.md claims nothing that no test shows. `UPDATE_DOCS=1` writes it. */

const FILE = 'docs/clients.md';
const [BEGIN, END] = ['<!-- clients: written by `npm run docs` -->\n', '\n<!-- end -->'];

t.test('the document has the table of the tests', async (t) => {
  const text = readFileSync(FILE, 'utf8');
  const from = text.indexOf(BEGIN) + BEGIN.length;
  const to = text.indexOf(END);
  t.ok(from >= BEGIN.length && to > from, 'the marks are there');
  const updated = text.slice(0, from) + renderTable() + text.slice(to);
  if (process.env.UPDATE_DOCS) writeFileSync(FILE, updated);
  else t.equal(text, updated, `run \`npm run docs\``);
});

t.test('every cell has a test, and every client a page', async (t) => {
  for (const { name, page, cells } of CLIENTS) {
    const path = `docs/${page.replace(/#.*/, '')}`;
    t.ok(existsSync(path), `${name}: ${path}`);
    t.ok(cells.ask, `${name}: asks`);
    for (const column of COLUMNS) {
      const evidence = cells[column];
      if (evidence === undefined) continue;
      t.ok(evidence.title.length > 10, `${name}, ${column}: the title of a test`);
      const { file, sharedBy } = evidence;
      const isCalled = sharedBy === undefined || /^ {2}testPages\(t, /m.test(readFileSync(`test/${file}`, 'utf8'));
      t.ok(isCalled, `${name}, ${column}: ${file} has the shared tests`);
      const source = readFileSync(`test/${sharedBy ?? file}`, 'utf8');
      const titles = [...source.matchAll(/\bt\.test\(\s*(['`])(.*?)\1,/gs)].map(([, , title = '']) => title);
      t.ok(
        titles.some((title) => title.includes(evidence.title)),
        `${name}, ${column}: ${evidence.title}`,
      );
    }
  }
});
