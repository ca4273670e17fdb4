import { chmodSync, readFileSync } from 'node:fs';
import t from 'tap';
import { loadConfig, readConfig } from '../../plugins/config/load.ts';
import { settingsThatNeedRestart } from '../../plugins/config/restart.ts';
import { bellaAt, writeConfig } from '../helper.ts';
import { runServer, spawnServer } from '../process.ts';
import { readAll } from '../sse-client.ts';
import { completeAnswer, startUpstream } from '../upstream.ts';
import { recordsIn } from './capture.ts';

/** Tests the settings of usage records, and records of the compiled service. */

t.test('records go to standard output unless the settings say otherwise', async (t) => {
  t.same(loadConfig({}).usage, { to: 'stdout', maxLength: 100_000 });
  t.same(loadConfig({ USAGE_TO: 'file', USAGE_FILE: '/x/y' }).usage, { to: 'file', file: '/x/y', maxLength: 100_000 });
  const CONFIG_FILE = writeConfig(t, 'usage: { to: redis, maxLength: 5 }');
  t.same(loadConfig({ CONFIG_FILE, REDIS_URL: 'redis://h' }).usage, { to: 'redis', maxLength: 5 });
});

t.test('settings that contradict one another are named', async (t) => {
  const cases: [env: Record<string, string>, problem: RegExp][] = [
    [{ USAGE_TO: 'kafka' }, /^USAGE_TO: must be one of none, stdout, file, redis$/],
    [{ USAGE_TO: 'file' }, /^USAGE_FILE: required with USAGE_TO=file$/],
    [{ USAGE_FILE: '/x' }, /^USAGE_FILE: has no effect without USAGE_TO=file$/],
    [{ USAGE_TO: 'redis' }, /^REDIS_URL: required with USAGE_TO=redis$/],
    [{ yaml: 'usage: null' }, /^usage: /],
    [{ yaml: 'usage: { maxLength: 0 }' }, /^usage\.maxLength: /],
  ];
  for (const [{ yaml, ...env }, problem] of cases) {
    const { problems } = readConfig({ ...env, ...(yaml && { CONFIG_FILE: writeConfig(t, yaml) }) });
    t.equal(problems.length, 1, JSON.stringify(problems));
    t.match(problems[0], problem);
  }
  t.same(
    readConfig({ USAGE_TOO: 'none' }).unknownVariables.map(({ similar }) => similar),
    ['USAGE_TO'],
    'a spelling mistake',
  );
});

t.test('a reload does not change where records go', async (t) => {
  const env = { REDIS_URL: 'redis://h' };
  const changed = settingsThatNeedRestart(loadConfig(env), loadConfig({ ...env, USAGE_TO: 'redis' }));
  t.same(changed, ['usage.to']);
});

t.test('a file that cannot be written fails the start, with a message', async (t) => {
  const dir = t.testdir({ 'locked.jsonl': '' });
  chmodSync(`${dir}/locked.jsonl`, 0o400);
  const paths: [path: string, code: RegExp][] = [
    [`${dir}/missing/usage.jsonl`, /ENOENT/],
    [dir, /EISDIR/],
  ];
  if (process.getuid?.() !== 0) paths.push([`${dir}/locked.jsonl`, /EACCES/]);
  await Promise.all(
    paths.map(async ([path, code]) => {
      const { exit, output } = spawnServer({ PORT: '0', USAGE_TO: 'file', USAGE_FILE: path });
      t.equal(await exit, 1, path);
      t.match(output(), /^ {2}- USAGE_FILE: cannot be opened for writing \(\w+\)$/m);
      t.match(output(), code);
      t.notMatch(output(), /\n\s+at /, 'no stack');
    }),
  );
});

t.test('the service writes all records before it ends', async (t) => {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const file = `${t.testdir()}/usage.jsonl`;
  const [onStdout, inFile] = await Promise.all([
    runServer(t, bellaAt(upstream.url)),
    runServer(t, bellaAt(upstream.url, { USAGE_TO: 'file', USAGE_FILE: file })),
  ]);
  for (const { url, child, exit } of [onStdout, inFile]) {
    for (let i = 0; i < 5; i++) await readAll(`${url}/ask/stream?question=q`);
    child.kill('SIGTERM');
    t.equal(await exit, 0);
  }
  const usageOf = ({ lines }: typeof onStdout) => lines.filter(({ usage }) => usage === 1);
  t.equal(usageOf(onStdout).length, 5);
  t.match(usageOf(onStdout)[0], { key: '_anonymous', model: 'bella/gpt-4o', attempts: [{ target: 'bella/gpt-4o' }] });
  t.equal(usageOf(inFile).length, 0);
  t.equal(recordsIn(readFileSync(file, 'utf8')).length, 5);
});
