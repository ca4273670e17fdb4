import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';

/**
 * Writes `build/test/groups/<folder>.test.js`, which runs all tests of a folder in one process. A process spends a
 * second on loading tap and the service, more than most of these files take. `.taprc` names the groups.
 */

const GROUPS = [
  'auth',
  'deploy',
  'limits',
  'llm',
  'plugins',
  'prices',
  'providers',
  'responses',
  'routes',
  'stored-responses',
  'streams',
  'upstreams',
  'usage',
];
/** Files that measure or load their process. `.taprc` names them. */
const ALONE = new Set([
  'plugins/back-pressure',
  'plugins/listeners',
  'plugins/load',
  'plugins/long-answers',
  'plugins/stalled-responses',
  'responses/long-answers',
  'streams/leaks',
  'streams/memory',
]);

const FOLDER = 'build/test/groups';

rmSync(FOLDER, { recursive: true, force: true });
mkdirSync(FOLDER);
for (const group of GROUPS) {
  const names = readdirSync(`build/test/${group}`).filter((name) => name.endsWith('.test.js'));
  const grouped = names.filter((name) => !ALONE.has(`${group}/${name.replace('.test.js', '')}`));
  writeFileSync(`${FOLDER}/${group}.test.js`, grouped.map((name) => `import '../${group}/${name}';\n`).join(''));
}
