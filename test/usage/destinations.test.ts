import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import Fastify from 'fastify';
import t, { type Test } from 'tap';
import metricsPlugin from '../../plugins/metrics/index.ts';
import { createDelivery, type Delivery } from '../../plugins/usage/delivery.ts';
import { Backlog } from '../../plugins/usage/destination.ts';
import { createFileDestination } from '../../plugins/usage/file.ts';
import { createStdoutDestination } from '../../plugins/usage/stdout.ts';
import { until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';

/** Tests standard output and the file as destinations, with their faults. */

/** A delivery that remembers what became of records. */
function fakeDelivery() {
  const seen = { written: 0, dropped: 0, delayed: [] as string[], reasons: [] as string[] };
  const delivery: Delivery = {
    onWritten(count) {
      seen.written += count;
    },
    onDelayed: (reason) => void seen.delayed.push(reason),
    onDropped(count, reason) {
      seen.dropped += count;
      seen.reasons.push(reason);
    },
  };
  return { seen, delivery };
}

async function fileIn(t: Test, path: string, backlog?: Backlog) {
  const clock = manualClock();
  const { seen, delivery } = fakeDelivery();
  const file = await createFileDestination({ path, clock, delivery, ...(backlog && { backlog }) });
  t.teardown(() => file.close());
  return { clock, seen, file };
}

const lines = (path: string) => readFileSync(path, 'utf8').split('\n').slice(0, -1);
const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => `record ${from + i}`);

t.test('a file has every record once and in order, each on a line', async (t) => {
  const path = `${t.testdir()}/usage.jsonl`;
  const { seen, file } = await fileIn(t, path);
  for (const record of numbers(0, 2_000)) file.write(record);
  await until(() => seen.written === 2_000, 'all records are written');
  file.write('after a pause');
  t.same(await file.close(), [], 'nothing is left');
  t.same(lines(path), [...numbers(0, 2_000), 'after a pause']);
});

t.test('a file is appended to, and a line that was cut ends first', async (t) => {
  const path = `${t.testdir({ 'usage.jsonl': 'one\n{"usage":1,"str' })}/usage.jsonl`;
  const { file } = await fileIn(t, path);
  file.write('two');
  await file.close();
  t.same(lines(path), ['one', '{"usage":1,"str', 'two']);
  const again = await fileIn(t, path);
  again.file.write('three');
  await again.file.close();
  t.same(lines(path), ['one', '{"usage":1,"str', 'two', 'three'], 'a complete line needs no end');
});

t.test('a file that was renamed or deleted is opened again', async (t) => {
  const dir = t.testdir();
  const path = `${dir}/usage.jsonl`;
  const { seen, file } = await fileIn(t, path);
  file.write('one');
  await until(() => seen.written === 1, 'the first is written');
  renameSync(path, `${path}.1`);
  file.write('two');
  await until(() => seen.written === 2, 'the second is written');
  t.same(lines(`${path}.1`), ['one']);
  t.same(lines(path), ['two']);
  rmSync(path);
  file.write('three');
  await until(() => seen.written === 3, 'the third is written');
  t.same(lines(path), ['three']);
});

t.test('records wait while the file cannot be opened, and those without room are dropped', async (t) => {
  const dir = `${t.testdir()}/logs`;
  mkdirSync(dir);
  const path = `${dir}/usage.jsonl`;
  const { clock, seen, file } = await fileIn(t, path, new Backlog(30));
  renameSync(dir, `${dir}.old`);
  file.write('record one');
  await until(() => seen.delayed.length === 1, 'the write has failed');
  t.same(seen.delayed, ['ENOENT']);
  for (const record of ['record two', 'record three', 'record four']) file.write(record);
  t.same([seen.dropped, seen.reasons], [1, ['full']], 'the last has no room');
  clock.advance(1_000);
  await until(() => seen.delayed.length === 2, 'a retry has failed');
  mkdirSync(dir);
  clock.advance(1_000);
  await until(() => seen.written === 3, 'the others are written');
  t.same(lines(path), ['record one', 'record two', 'record three']);
});

t.test('records of a full disk are handed back at the end', async (t) => {
  const { clock, seen, file } = await fileIn(t, '/dev/full');
  for (const record of numbers(0, 3)) file.write(record);
  await until(() => seen.delayed.length === 1, 'the write has failed');
  clock.advance(1_000);
  await until(() => seen.delayed.length === 2, 'the retry has failed');
  t.same(seen.delayed, ['ENOSPC', 'ENOSPC']);
  t.same(await file.close(), numbers(0, 3));
  t.equal(seen.written, 0);
});

/** Mounts a disk of 64 KB. Returns undefined where that is not allowed. */
function smallDisk(t: Test): string | undefined {
  // The directory of a test is emptied before its teardown.
  const dir = mkdtempSync(join(tmpdir(), 'usage-'));
  t.teardown(() => rmdirSync(dir));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', dir], { stdio: 'ignore' });
  } catch {
    return undefined;
  }
  t.teardown(() => execFileSync('umount', ['-l', dir]));
  return dir;
}

t.test('a disk that fills in the middle of a line cuts no record and repeats none', async (t) => {
  const dir = smallDisk(t);
  if (dir === undefined) {
    t.comment('skipped: needs the right to mount');
    return;
  }
  const path = `${dir}/usage.jsonl`;
  writeFileSync(`${dir}/ballast`, Buffer.alloc(40_000));
  const { clock, seen, file } = await fileIn(t, path);
  const records = numbers(0, 3_000); // About 36 KB.
  for (const record of records) file.write(record);
  await until(() => seen.delayed.length > 0, 'the disk is full');
  t.equal(seen.delayed[0], 'ENOSPC');
  rmSync(`${dir}/ballast`);
  clock.advance(1_000);
  await until(() => seen.written === records.length, 'all records are written');
  t.same(lines(path), records);
});

t.test('a line that a full disk has cut begins again in the next file, and the end writes what waits', async (t) => {
  const dir = smallDisk(t);
  if (dir === undefined) {
    t.comment('skipped: needs the right to mount');
    return;
  }
  const path = `${dir}/usage.jsonl`;
  writeFileSync(`${dir}/ballast`, Buffer.alloc(40_000));
  const { seen, file } = await fileIn(t, path);
  const records = numbers(0, 3_000);
  for (const record of records) file.write(record);
  await until(() => seen.delayed.length > 0, 'the disk is full');
  renameSync(path, `${path}.1`);
  rmSync(`${dir}/ballast`);
  t.same(await file.close(), [], 'nothing is left');
  const whole = lines(`${path}.1`);
  t.same([...whole, ...lines(path)], records, 'no record is lost, cut or repeated');
});

t.test('standard output that is not read drops records beyond its bound, and counts them', async (t) => {
  const output = new PassThrough({ highWaterMark: 1 });
  const { seen, delivery } = fakeDelivery();
  const clock = manualClock();
  const stdout = createStdoutDestination({ output, clock, delivery, maxWaitingBytes: 100 });
  for (const record of numbers(0, 50)) stdout.write(record);
  t.ok(seen.dropped > 30 && seen.dropped < 50, `${seen.dropped} dropped`);
  t.same(new Set(seen.reasons), new Set(['not_read']));
  let isClosed = false;
  const closing = stdout.close().then(() => (isClosed = true));
  clock.advance(999);
  t.equal(isClosed, false, 'the end waits for the reader');
  let text = '';
  output.on('data', (bytes) => (text += bytes));
  await closing;
  t.equal(text.split('\n').length - 1, 50 - seen.dropped);
  t.equal(seen.written, 50 - seen.dropped);
});

t.test('the end does not wait longer than a second for a reader that is gone or stalled', async (t) => {
  const clock = manualClock();
  const { seen, delivery } = fakeDelivery();
  const stalled = createStdoutDestination({ output: new PassThrough({ highWaterMark: 1 }), clock, delivery });
  for (const record of numbers(0, 3)) stalled.write(record);
  const closing = stalled.close();
  clock.advance(1_000);
  await closing;
  const output = new Writable({ write: (_bytes, _encoding, done) => done(new Error('broken pipe')) });
  output.on('error', () => {});
  const gone = createStdoutDestination({ output, clock, delivery });
  gone.write('one');
  await until(() => seen.dropped === 1, 'the record is dropped');
  gone.write('two');
  t.same(seen.reasons, ['Error', 'closed']);
  await gone.close();
});

t.test('one line reports an outage, and one its end', async (t) => {
  const app = Fastify();
  await app.register(metricsPlugin, { hasRedis: false });
  const logged: unknown[] = [];
  const log = (level: string) => (fields: object, msg: string) => void logged.push({ level, ...fields, msg });
  const logger = { info: log('info'), warn: log('warn'), error: log('error') } as never;
  const delivery = createDelivery({ destination: 'file', metrics: app.metrics, log: logger });
  delivery.onWritten(1);
  for (let i = 0; i < 3; i++) delivery.onDelayed('ENOSPC');
  for (let i = 0; i < 3; i++) delivery.onDropped(2, 'full');
  delivery.onWritten(4);
  delivery.onWritten(1);
  t.match(logged, [
    { level: 'warn', destination: 'file', reason: 'ENOSPC' },
    { level: 'error', destination: 'file', reason: 'full' },
    { level: 'info', destination: 'file', dropped: 6 },
  ]);
  t.equal(logged.length, 3);
  const count = (outcome: string) => metricValue(app, 'sluice_usage_records_total', { destination: 'file', outcome });
  t.same([await count('written'), await count('dropped')], [6, 6]);
});
