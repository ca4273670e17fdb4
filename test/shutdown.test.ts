import t from 'tap';
import { bellaAt, until } from './helper.ts';
import { runServer } from './process.ts';
import { open } from './sse-client.ts';
import { STOP, startUpstream, text, unfinishedAnswer } from './upstream.ts';

const TEN = Array.from({ length: 10 });

t.test('SIGTERM lets running answers finish, and refuses new ones', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('a'));
  const server = await runServer(t, bellaAt(upstream.url));
  const readings = await Promise.all(TEN.map(() => open(`${server.url}/ask/stream?question=q`)));
  await Promise.all(readings.map((reading) => reading.until('delta')));
  t.equal((await fetch(`${server.url}/readyz`)).status, 200);

  server.child.kill('SIGTERM');
  await until(() => server.lines.some(({ msg }) => String(msg).startsWith('draining')), 'it drains');
  t.equal((await fetch(`${server.url}/readyz`)).status, 503, 'no longer ready');
  t.equal((await fetch(`${server.url}/livez`)).status, 200, 'but alive');
  const refused = await fetch(`${server.url}/ask/stream`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"question":"q"}',
  });
  t.equal(refused.status, 503);
  t.equal(((await refused.json()) as { error: { code: string } }).error.code, 'overloaded');

  for (const { response } of upstream.calls) response.end(text('b') + STOP);
  for (const reading of readings) {
    t.equal((await reading.until('end')).json.answer, 'ab');
    t.equal(await reading.ended, true, 'a clean end');
  }
  t.equal(await server.exit, 0);
});

t.test('what is not done when the drain is over ends with an error, and exit code 0', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('a'));
  const server = await runServer(t, bellaAt(upstream.url, { DRAIN_MS: '200' }));
  const readings = await Promise.all(TEN.map(() => open(`${server.url}/ask/stream?question=q`)));
  await Promise.all(readings.map((reading) => reading.until('delta')));
  server.child.kill('SIGTERM');
  for (const reading of readings) {
    t.match((await reading.until('error')).json, { code: 'stream_lost', retryable: true });
    t.equal(await reading.ended, true, 'a clean end');
  }
  t.equal(await server.exit, 0);
  for (const call of upstream.calls) await call.closed;
  t.ok(
    upstream.calls.every((call) => !call.finished),
    'the upstream calls were aborted',
  );
});

t.test('an idle service leaves at once, with a kept-alive connection open', async (t) => {
  const server = await runServer(t, {});
  await fetch(`${server.url}/livez`);
  const asked = performance.now();
  server.child.kill('SIGTERM');
  t.equal(await server.exit, 0);
  // Takes some milliseconds; waiting for the connection would take the 25 s of the drain.
  t.ok(performance.now() - asked < 15_000, 'it does not wait for the connection');
});

t.test('a signal that comes twice at once is one signal, a later one ends it', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('a'));
  const server = await runServer(t, bellaAt(upstream.url));
  const reading = await open(`${server.url}/ask/stream?question=q`);
  await reading.until('delta');
  server.child.kill('SIGINT');
  server.child.kill('SIGINT');
  server.child.kill('SIGTERM');
  await until(() => server.lines.some(({ msg }) => String(msg).startsWith('draining')), 'it drains');
  (await upstream.call(1)).response.end(text('b') + STOP);
  t.equal((await reading.until('end')).json.answer, 'ab', 'the answer is finished');
  t.equal(await server.exit, 0);

  const impatient = await runServer(t, bellaAt(upstream.url));
  await (await open(`${impatient.url}/ask/stream?question=q`)).until('delta');
  impatient.child.kill('SIGTERM');
  await until(() => impatient.lines.some(({ msg }) => String(msg).startsWith('draining')), 'it drains');
  const again = setInterval(() => impatient.child.kill('SIGTERM'), 100);
  t.equal(await impatient.exit, 1, 'a second signal ends it at once');
  clearInterval(again);
});

t.test('a log that nobody reads any more stops nothing', async (t) => {
  const server = await runServer(t, {});
  server.child.stdout?.destroy();
  for (let i = 0; i < 3; i++) t.equal((await fetch(`${server.url}/nothing`)).status, 404);
  server.child.kill('SIGTERM');
  t.equal(await server.exit, 0);
});
