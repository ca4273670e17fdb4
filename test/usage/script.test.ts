import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { createTotals } from '../../scripts/usage-totals.ts';
import { noRedis, startRedis } from '../redis.ts';

/** Tests `npm run usage`: it counts each generation once, and ignores what is no record. */

const run = promisify(execFile);

const record = (stream: string, changes: object = {}) =>
  JSON.stringify({
    ...{ usage: 1, time: '2026-11-27T23:59:59.999Z', stream, key: 'web', model: 'm', outcome: 'ok', basis: 'counted' },
    ...{ inputTokens: 100, outputTokens: 10, estimatedInputTokens: 0, estimatedOutputTokens: 0, attempts: [] },
    ...{ cost: 0.1, ...changes },
  });

const LOST = { basis: 'estimated', outcome: 'stream_lost', estimatedInputTokens: 100, estimatedOutputTokens: 10 };

/** Lines as they are in files of operators. */
const LINES = [
  '{"level":30,"time":1,"msg":"ready"}',
  record('a'),
  record('a'), // Sent twice.
  record('b', { cost: 0.2, time: '2026-11-28T00:00:00.000Z' }),
  `sluice-1  | ${record('c', { key: 'other', cost: undefined })}`,
  `2026-11-27T23:59:59Z stdout F ${record('d', { key: 'other', model: 'n', inputTokens: 0, outputTokens: 0, cost: undefined })}`,
  record('e', { ...LOST, cost: 0.7 }), // Of a replica that took the answer over.
  record('e', { cost: 0.3 }),
  record('f', { basis: 'both', estimatedOutputTokens: 4 }),
  record('f', LOST),
  '{"level":30,"msg":"a client wrote {\\"usage\\":1,"}',
  '{"usage":1,"stream":"no-time"}',
  'not JSON',
  '',
];
/** The end of a file that a process was killed in. */
const CUT = record('z').slice(0, 60);

function fileOf(t: Test, ...lines: string[]): string {
  return `${t.testdir({ 'usage.jsonl': [...lines, CUT].join('\n') })}/usage.jsonl`;
}

function usage(...args: string[]) {
  return run(process.execPath, ['build/scripts/usage.js', ...args]);
}

t.test('a file is summed by key, model and day; duplicates and other lines are ignored', async (t) => {
  const { stdout, stderr } = await usage(fileOf(t, ...LINES));
  t.equal(
    stdout,
    [
      'key    model  day         generations  input  output  estimated       USD  without cost',
      'other  m      2026-11-27            1    100      10          0  0.000000             1',
      'other  n      2026-11-27            1      0       0          0  0.000000             0',
      'web    m      2026-11-27            3    300      30          4  0.500000             0',
      'web    m      2026-11-28            1    100      10          0  0.200000             0',
      '',
    ].join('\n'),
  );
  t.equal(stderr, '3 duplicate records were left out.\n');
});

t.test('--by and --json', async (t) => {
  const file = fileOf(t, ...LINES);
  const { stdout } = await usage(file, '--by', 'outcome', '--json', file);
  t.same(JSON.parse(stdout), [
    {
      outcome: 'ok',
      ...{ generations: 6, inputTokens: 500, outputTokens: 50, estimatedInputTokens: 0, estimatedOutputTokens: 4 },
      ...{ cost: 0.7, withoutCost: 1 },
    },
  ]);
});

t.test('standard input', async (t) => {
  const running = usage('-', '--by', 'key');
  running.child.stdin?.end(`${LINES.join('\r\n')}\r\n`);
  t.match((await running).stdout, /^web +4 +400 +40 +4 +0\.700000 +0$/m);
});

t.test('what cannot be read, and wrong arguments, are errors', async (t) => {
  const cases: [args: string[], message: RegExp][] = [
    [['/nowhere/usage.jsonl'], /^\/nowhere\/usage\.jsonl: cannot be read \(ENOENT\)$/m],
    [['.'], /^\.: cannot be read \(EISDIR\)$/m],
    [['redis://:CANARY@127.0.0.1:1'], /^redis:\/\/127\.0\.0\.1:1: cannot be read/m],
    [[], /^Usage: npm run usage/m],
    [['x', '--by', 'colour'], /^--by: unknown field colour$/m],
    [['x', '--wrong'], /Unknown option/],
  ];
  await Promise.all(
    cases.map(async ([args, message]) => {
      const error = await usage(...args).then(
        () => undefined,
        (error: { code: number; stderr: string }) => error,
      );
      t.equal(error?.code, 1, args.join(' '));
      t.match(error?.stderr, message);
      t.notMatch(error?.stderr, /CANARY|\n\s+at /, 'no password, no stack');
    }),
  );
  t.match(await usage(`${t.testdir({ empty: '' })}/empty`), { stdout: 'No usage records.\n' });
});

t.test('a Redis stream is read in pages', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const rows = Array.from({ length: 2_500 }, (_, i) =>
    redis.client.xadd('sluice:usage', '*', 'record', record(`${i}`)),
  );
  await Promise.all(rows);
  const { stdout } = await usage(redis.url, '--by', 'key');
  t.match(stdout, /^web +2500 +250000 +25000 /m);
});

t.test('sums of costs are exact', async (t) => {
  const totals = createTotals(['key']);
  for (let i = 0; i < 1_000; i++) totals.add(record(`${i}`, { cost: 0.1 }));
  totals.add(record('large', { cost: 20_000_000 }));
  t.equal(totals.list()[0]?.cost, 20_000_100);
});
