import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import t, { type Test } from 'tap';
import { createFileWatch } from '../../plugins/config/files.ts';
import type { ReloadReport } from '../../plugins/config/index.ts';
import { loadConfig, readConfig } from '../../plugins/config/load.ts';
import { createReloader, WATCH_INTERVAL_MS } from '../../plugins/config/reload.ts';
import { RestartRequired, settingsThatNeedRestart } from '../../plugins/config/restart.ts';
import type { Config } from '../../plugins/config/schema.ts';
import { configurationReference } from '../../scripts/config-reference.ts';
import { deferred, until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';

/** Tests when the configuration is read again, with real files and a clock that the test advances. */

const REPORT = { keys: 0, apiKeys: {}, needsRestart: [] } as unknown as ReloadReport;

interface Setup {
  /** Key of the provider in each configuration that was applied. */
  readonly applied: (string | undefined)[];
  readonly refused: string[][];
  readonly loads: () => number;
  readonly reload: () => void;
  readonly close: () => void;
  /** Lets the watch look at the files, a number of times. */
  look(times?: number): Promise<void>;
}

/** Creates a reloader of the configuration that the variables name. */
function createSetup(t: Test, env: Record<string, string>, load = async () => readConfig(env)): Setup {
  const clock = manualClock();
  const applied: (string | undefined)[] = [];
  const refused: string[][] = [];
  let loads = 0;
  const { reload, close } = createReloader({
    load: () => {
      loads += 1;
      return load();
    },
    apply(config) {
      applied.push(config.providers.openai?.apiKeys?.join());
      return REPORT;
    },
    files: readConfig(env).files,
    clock,
    onReloaded: () => {},
    onRefused: (problems) => refused.push([...problems]),
  });
  t.teardown(close);
  return {
    applied,
    refused,
    loads: () => loads,
    reload,
    close,
    async look(times = 1) {
      for (let i = 0; i < times; i++) {
        await until(() => clock.pending === 1, 'the next look is planned');
        clock.advance(WATCH_INTERVAL_MS);
        await until(() => clock.pending === 1, 'the look has ended');
      }
    },
  };
}

const keyFile = (path: string) => ({ DEFAULT_MODEL: 'openai/m', OPENAI_API_KEY_FILE: path });

t.test('a changed file is reloaded once, when two looks find the same content', async (t) => {
  const writers: Record<string, (dir: string, key: string) => void> = {
    'written in place': (dir, key) => writeFileSync(`${dir}/key`, key),
    'replaced by rename': (dir, key) => {
      writeFileSync(`${dir}/key~`, key);
      renameSync(`${dir}/key~`, `${dir}/key`);
    },
    'removed and written again': (dir, key) => {
      rmSync(`${dir}/key`);
      writeFileSync(`${dir}/key`, key);
    },
    'with the times of before': (dir, key) => {
      writeFileSync(`${dir}/key`, key);
      utimesSync(`${dir}/key`, 1, 1);
    },
  };
  for (const [name, write] of Object.entries(writers)) {
    const dir = t.testdir({ key: 'one' });
    const { look, applied, loads } = createSetup(t, keyFile(`${dir}/key`));
    await look(2);
    t.equal(loads(), 0, `${name}: nothing is reloaded without a change`);
    write(dir, 'two'); // As long as before.
    await look();
    t.equal(loads(), 0, `${name}: the first look waits for another one`);
    await look();
    t.same(applied, ['two'], `${name}: the second look reloads`);
    await look(3);
    t.same(applied, ['two'], `${name}: once`);
    write(dir, 'two');
    await look(2);
    t.equal(loads(), 1, `${name}: the same content again is not reloaded`);
  }
});

t.test('a Secret of Kubernetes is reloaded when its link is replaced', async (t) => {
  const dir = t.testdir({ v1: { key: 'one', other: 'x' } });
  symlinkSync('v1', `${dir}/..data`);
  symlinkSync('..data/key', `${dir}/key`);
  const { look, applied, loads } = createSetup(t, keyFile(`${dir}/key`));
  const swap = (version: string, key: string) => {
    mkdirSync(`${dir}/${version}`);
    writeFileSync(`${dir}/${version}/key`, key);
    symlinkSync(version, `${dir}/..data_tmp`);
    renameSync(`${dir}/..data_tmp`, `${dir}/..data`);
  };
  swap('v2', 'two');
  rmSync(`${dir}/v1`, { recursive: true });
  await look(2);
  t.same(applied, ['two']);
  swap('v3', 'two');
  await look(3);
  t.equal(loads(), 1, 'a new version with the same content is not reloaded');
});

t.test('a file that changes at every look is reloaded when it rests; one that changes back is not', async (t) => {
  const dir = t.testdir({ key: 'one' });
  const { look, applied, loads } = createSetup(t, keyFile(`${dir}/key`));
  for (const part of ['t', 'tw', 'two', 'two,three']) {
    writeFileSync(`${dir}/key`, part);
    await look();
  }
  t.equal(loads(), 0, 'not while it is written');
  await look();
  t.same(applied, ['two,three']);
  writeFileSync(`${dir}/key`, 'four');
  await look();
  writeFileSync(`${dir}/key`, 'two,three');
  await look(3);
  t.equal(loads(), 1);
});

t.test('a file that changes while it is loaded is looked at again', async (t) => {
  const dir = t.testdir({ key: 'one' });
  const env = keyFile(`${dir}/key`);
  let duringLoad = () => {};
  const { look, applied } = createSetup(t, env, async () => {
    duringLoad();
    return readConfig(env);
  });
  writeFileSync(`${dir}/key`, 'two');
  duringLoad = () => writeFileSync(`${dir}/key`, 'half');
  await look(2);
  t.same(applied, [], 'a content that only one look has seen is not applied');
  duringLoad = () => {};
  writeFileSync(`${dir}/key`, 'three');
  await look(2);
  t.same(applied, ['three']);
});

t.test('a wrong or missing file changes nothing and is reported once', async (t) => {
  const dir = t.testdir({ 'sluice.yaml': 'port: 1', key: 'one' });
  const { look, applied, refused } = createSetup(t, { ...keyFile(`${dir}/key`), CONFIG_FILE: `${dir}/sluice.yaml` });
  writeFileSync(`${dir}/sluice.yaml`, 'port: [1');
  await look(4);
  t.match(refused, [[/^CONFIG_FILE: not valid YAML/]], 'once');
  rmSync(`${dir}/key`);
  await look(4);
  t.match(refused.slice(1), [[/^CONFIG_FILE: /, 'OPENAI_API_KEY_FILE: file not found']], 'the missing file, once');
  t.same(applied, []);
  writeFileSync(`${dir}/sluice.yaml`, 'port: 1');
  writeFileSync(`${dir}/key`, 'two');
  await look(2);
  t.same(applied, ['two'], 'the next valid content is applied');
});

t.test('a load or a listener that throws does not end the watch', async (t) => {
  const dir = t.testdir({ key: 'one' });
  const env = keyFile(`${dir}/key`);
  let error: Error | undefined = new TypeError('CANARY');
  const { look, applied, refused } = createSetup(t, env, async () => {
    if (error) throw error;
    return readConfig(env);
  });
  writeFileSync(`${dir}/key`, 'two');
  await look(2);
  t.same(refused, [['cannot be loaded (TypeError)']], 'without the message of the error');
  error = new RestartRequired('new providers: x');
  await look(2);
  t.same(refused[1], ['needs a restart: new providers: x']);
  error = undefined;
  await look(2);
  t.same(applied, ['two']);
});

t.test('without a free descriptor the watch waits', { skip: noPrlimit() }, async (t) => {
  const dir = t.testdir({ key: 'one' });
  const { look, applied, loads, refused } = createSetup(t, keyFile(`${dir}/key`));
  await look();
  const before = /Max open files\s+(\d+)/.exec(
    execFileSync('cat', [`/proc/${process.pid}/limits`], { encoding: 'utf8' }),
  );
  const setLimit = (limit: number) => execFileSync('prlimit', ['--pid', String(process.pid), `--nofile=${limit}:`]);
  setLimit(200);
  writeFileSync(`${dir}/key`, 'two');
  const taken: number[] = [];
  try {
    for (;;) taken.push(openSync('/dev/null', 'r'));
  } catch {
    // No descriptor is left.
  }
  await look(4);
  t.same([loads(), refused], [0, []], 'nothing is reloaded or reported');
  for (const descriptor of taken) closeSync(descriptor);
  setLimit(Number(before?.[1]));
  await look(2);
  t.same(applied, ['two'], 'afterwards the change is applied');
});

function noPrlimit(): string | false {
  try {
    execFileSync('prlimit', ['--version'], { stdio: 'ignore' });
    return false;
  } catch {
    return 'prlimit is not installed';
  }
}

t.test('one reload runs at a time, and the last request wins', async (t) => {
  const dir = t.testdir({ key: 'one' });
  const env = keyFile(`${dir}/key`);
  const gates: (() => void)[] = [];
  const { reload, look, applied, loads, close } = createSetup(t, env, async () => {
    const loaded = readConfig(env);
    const { promise, resolve } = deferred();
    gates.push(resolve);
    await promise;
    return loaded;
  });
  const finish = async (n: number) => {
    await until(() => gates.length === n, `load ${n} has started`);
    gates[n - 1]?.();
    await until(() => applied.length === n, `load ${n} has ended`);
  };
  reload();
  await until(() => gates.length === 1, 'the first load has started');
  writeFileSync(`${dir}/key`, 'two');
  for (let i = 0; i < 5; i++) reload();
  await look(3);
  t.equal(loads(), 1, 'others wait, the watch too');
  await finish(1);
  await until(() => gates.length === 2, 'the second load has started');
  await look(3);
  await finish(2);
  t.same(applied, ['one', 'two'], 'five requests are one, and its content is the last one');
  await look(3);
  t.equal(loads(), 2, 'the watch knows the content that a request has loaded');
  reload();
  await finish(3);
  t.equal(applied[2], 'two', 'a request reloads also without a change');
  reload();
  await until(() => gates.length === 4, 'another load has started');
  reload();
  close();
  gates[3]?.();
  await until(() => applied.length === 4, 'it has ended');
  t.equal(loads(), 4, 'none starts after the end of the watch');
});

t.test('files are compared by content, also long after they were written', async (t) => {
  const dir = t.testdir({ key: 'one' });
  const path = `${dir}/key`;
  const watch = createFileWatch(() => Date.now() + 60_000);
  const first = await watch({ [path]: '' });
  t.same(await watch({ [path]: '' }), first, 'unchanged');
  writeFileSync(path, 'two');
  const second = await watch({ [path]: '' });
  t.notSame(second, first, 'another content of the same size');
  writeFileSync(`${dir}/next`, 'one');
  renameSync(`${dir}/next`, path);
  t.same(await watch({ [path]: '' }), first, 'the first content again');
  t.same(await watch({ [path]: '', [`${dir}/none`]: '' }), { ...first, [`${dir}/none`]: 'ENOENT' }, 'a missing file');
  for (const content of ['one', 'two', 'one']) {
    writeFileSync(path, content);
    utimesSync(path, 1, 1);
    t.same(await watch({ [path]: '' }), content === 'one' ? first : second, `${content}, with the time of before`);
  }
  execFileSync('mkfifo', [`${dir}/pipe`]);
  t.same(await watch({ [`${dir}/pipe`]: 'known' }), { [`${dir}/pipe`]: 'known' }, 'a pipe is not opened');
});

const YAML_CONFIG = loadConfig({ BELLA_API_KEY: 'k', DEFAULT_MODEL: 'bella/m', REDIS_URL: 'redis://h' });

/** A file whose content changes while its times stay. */
const UPTIME = '/proc/uptime';

t.test(
  'a file is read again while its times may hide a change',
  { skip: !existsSync(UPTIME) && 'no /proc' },
  async (t) => {
    const looks = async (now: () => number) => {
      const watch = createFileWatch(now);
      const first = await watch({ [UPTIME]: '' });
      const content = readFileSync(UPTIME, 'utf8');
      await until(() => readFileSync(UPTIME, 'utf8') !== content, 'the content has changed');
      return [first, await watch({ [UPTIME]: '' })];
    };
    const [fresh, later] = await looks(() => 0);
    t.notSame(later, fresh, 'a file that was just written is read again');
    const [old, same] = await looks(() => Date.now() + 60_000);
    t.same(same, old, 'a file with old times is not opened');
  },
);

/** The settings that docs/operations.md lists as applied by a reload. */
const RELOADED =
  /^(keys|keyDefaults|jwt|anonymous|models)\b|^(defaultModel|pricesFile)$|^deadlines\.(firstToken|idle|thinking|total)Ms$|^providers\.bella\.(apiKeys|models)$/;

t.test('every setting is either reloaded or named as one that needs a restart', async (t) => {
  const paths = [...configurationReference().matchAll(/^\| `([^`]+)`/gm)].map(([, path]) => path as string);
  t.ok(paths.length > 70, `${paths.length} settings`);
  for (const path of paths) {
    const next = structuredClone(YAML_CONFIG) as Config;
    const place = path
      .replace('<name>', 'bella')
      .replace(/\[\].*$/, '')
      .split('.');
    let target = next as unknown as Record<string, unknown>;
    for (const name of place.slice(0, -1)) {
      target[name] ??= {};
      target = target[name] as Record<string, unknown>;
    }
    target[place.at(-1) as string] = 'another value';
    const name = place.join('.');
    t.same(settingsThatNeedRestart(YAML_CONFIG, next), RELOADED.test(name) ? [] : [name], path);
  }
  t.same(settingsThatNeedRestart(YAML_CONFIG, structuredClone(YAML_CONFIG)), [], 'nothing has changed');
  t.same(settingsThatNeedRestart(YAML_CONFIG, { ...YAML_CONFIG, providers: {} }), [], 'a provider without use');
  const { redis, ...withoutRedis } = YAML_CONFIG;
  t.same(
    settingsThatNeedRestart(withoutRedis as Config, YAML_CONFIG),
    Object.keys(redis ?? {}).map((name) => `redis.${name}`),
  );
});
