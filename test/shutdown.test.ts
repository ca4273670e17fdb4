import t from 'tap';
import { bellaAt, until } from './helper.ts';
import { postJson } from './post-json.ts';
import { runServer, type ServerProcess } from './process.ts';
import { open, type Reading } from './sse-client.ts';
import { STOP, startUpstream, text, unfinishedAnswer } from './upstream.ts';

/** Asks ten questions and waits until each answer has started. */
async function askTenQuestions(url: string): Promise<Reading[]> {
  const readings = await Promise.all(Array.from({ length: 10 }, () => open(`${url}/ask/stream?question=q`)));
  await Promise.all(readings.map((reading) => reading.until('delta')));
  return readings;
}

const isDraining = ({ lines }: ServerProcess) => lines.some(({ msg }) => String(msg).startsWith('draining'));

t.test('SIGTERM lets running answers finish and refuses new questions', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('a'));
  const server = await runServer(t, bellaAt(upstream.url));
  const readings = await askTenQuestions(server.url);
  t.equal((await fetch(`${server.url}/readyz`)).status, 200, 'ready before SIGTERM');

  server.child.kill('SIGTERM');
  await until(() => isDraining(server), 'the service drains');
  t.equal((await fetch(`${server.url}/readyz`)).status, 503, 'not ready while it drains');
  t.equal((await fetch(`${server.url}/livez`)).status, 200, 'alive while it drains');
  const chat = { model: 'bella/gpt-4o', messages: [{ role: 'user', content: 'q' }] };
  for (const [path, body] of [
    ['/ask/stream', { question: 'q' }],
    ['/streams', { question: 'q' }],
    ['/v1/chat/completions', chat],
  ] as const) {
    const refused = await postJson(server.url + path, body);
    t.equal(refused.status, 503, `POST ${path}: a new question is refused`);
    t.equal(refused.headers.get('retry-after'), '1', `POST ${path}: it may be asked again after a second`);
    t.equal(refused.headers.get('connection'), 'close', `POST ${path}: on another connection`);
    t.match(await refused.json(), { error: { code: 'overloaded' } }, `POST ${path}: the code of the error`);
  }
  const eventSource = await open(`${server.url}/ask/stream?question=q`);
  t.equal(await eventSource.ended, true, 'the response to an EventSource is complete');
  t.equal(eventSource.response.statusCode, 200, 'an EventSource gets the only status after which it reconnects');
  t.equal(eventSource.response.headers.connection, 'close', 'an EventSource reconnects on another connection');
  t.same(eventSource.events, [], 'an EventSource gets no event, so its next request asks again');
  t.ok(eventSource.retry, 'an EventSource is told when to reconnect');
  t.match(eventSource.named, [{ event: 'ready', data: '{}', id: '' }], 'by the opening block');

  for (const { response } of upstream.calls) response.end(text('b') + STOP);
  for (const reading of readings) {
    t.equal((await reading.until('end')).json.answer, 'ab', 'the answer is complete');
    t.equal(await reading.ended, true, 'the response is complete');
  }
  t.equal(await server.exit, 0, 'exit code');
});

t.test('answers that exceed DRAIN_MS end with `stream_lost`, and the exit code is 0', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('a'));
  const server = await runServer(t, bellaAt(upstream.url, { DRAIN_MS: '200' }));
  const readings = await askTenQuestions(server.url);
  server.child.kill('SIGTERM');
  for (const reading of readings) {
    t.match(
      (await reading.until('error')).json,
      { code: 'stream_lost', retryable: true },
      'the reader gets `stream_lost`',
    );
    t.equal(await reading.ended, true, 'the response is complete');
  }
  t.equal(await server.exit, 0, 'exit code');
  for (const call of upstream.calls) await call.closed;
  t.ok(
    upstream.calls.every((call) => !call.finished),
    'the upstream calls are aborted',
  );
});

t.test('an idle service exits without waiting for keep-alive connections', async (t) => {
  const server = await runServer(t, { DRAIN_MS: '600000' });
  await fetch(`${server.url}/livez`);
  server.child.kill('SIGTERM');
  // Waiting for the connection would take longer than the time limit of the test.
  t.equal(await server.exit, 0, 'exit code');
});

t.test('repeated signals count as one; a later signal exits immediately with code 1', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('a'));
  const server = await runServer(t, bellaAt(upstream.url));
  const reading = await open(`${server.url}/ask/stream?question=q`);
  await reading.until('delta');
  server.child.kill('SIGINT');
  server.child.kill('SIGINT');
  server.child.kill('SIGTERM');
  await until(() => isDraining(server), 'the service drains');
  (await upstream.call(1)).response.end(text('b') + STOP);
  t.equal((await reading.until('end')).json.answer, 'ab', 'the answer is complete');
  t.equal(await server.exit, 0, 'exit code');

  const interrupted = await runServer(t, bellaAt(upstream.url));
  await (await open(`${interrupted.url}/ask/stream?question=q`)).until('delta');
  interrupted.child.kill('SIGTERM');
  await until(() => isDraining(interrupted), 'the service drains');
  const repeatedSignal = setInterval(() => interrupted.child.kill('SIGTERM'), 100);
  t.equal(await interrupted.exit, 1, 'the exit code after a second signal');
  clearInterval(repeatedSignal);
});

t.test('the service keeps answering when stdout is closed', async (t) => {
  const server = await runServer(t, {});
  server.child.stdout?.destroy();
  for (let i = 0; i < 3; i++) t.equal((await fetch(`${server.url}/nothing`)).status, 404, 'a request is answered');
  server.child.kill('SIGTERM');
  t.equal(await server.exit, 0, 'exit code');
});
