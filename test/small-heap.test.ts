import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import t from 'tap';
import { bellaAt, until } from './helper.ts';
import { runServer } from './process.ts';
import { DONE, STOP, sse, startUpstream, text } from './upstream.ts';

/** The service with a heap of 256 MB, and a service whose log is not read. */

t.test('a heap of 256 MB survives large bodies, slow readers and resumes by hundreds', async (t) => {
  let release = () => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  const answer = 'x'.repeat(10_000);
  const upstream = await startUpstream(t, async ({ body, response }) => {
    const isLong = body.includes('long answer');
    if (body.length > 1_000_000) await released;
    sse(response);
    response.write(text('begin '));
    if (isLong) for (let i = 0; i < 800; i++) response.write(text(answer));
    else await released;
    response.end(text('end') + STOP + DONE);
  });
  const { url, exit, child } = await runServer(t, {
    ...bellaAt(upstream.url),
    NODE_OPTIONS: '--max-old-space-size=256',
  });
  let hasExited = false;
  void exit.then(() => (hasExited = true));

  const running = Array.from({ length: 5 }, (_, i) =>
    fetch(`${url}/ask/stream?question=running${i}`).then((response) => response.text()),
  );
  await upstream.call(5);
  const long = await (await fetch(`${url}/ask/stream?question=long%20answer`)).text();
  const [, id = '', last] = [...long.matchAll(/^id: ([\w-]+)\.(\d+)$/gm)].at(-1) ?? [];
  t.ok(Number(last) > 8_000_000, 'the long answer is whole');

  const sockets: Socket[] = [];
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
  });
  for (let i = 0; i < 300; i++) {
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    sockets.push(socket);
    socket.on('error', () => {});
    await once(socket, 'connect');
    socket.pause();
    const position = i % 3 === 0 ? last : '0';
    socket.write(`GET /streams/${id} HTTP/1.1\r\nHost: sluice\r\nLast-Event-ID: ${id}.${position}\r\n\r\n`);
  }
  const image = `data:image/png;base64,${'A'.repeat(15_000_000)}`;
  const body = JSON.stringify({
    stream: true,
    messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: image } }] }],
  });
  const headers = { 'content-type': 'application/json' };
  const large = Array.from({ length: 20 }, () =>
    fetch(`${url}/v1/chat/completions`, { method: 'POST', headers, body }).then(
      async (response) => [response.status, await response.text()] as const,
    ),
  );
  let refused = 0;
  for (const question of large) void question.then(([status]) => (refused += status === 503 ? 1 : 0)).catch(() => {});
  await until(() => hasExited || refused >= 17, 'the large questions beyond the bound are refused');
  t.notOk(hasExited, 'the process goes on');
  t.equal((await fetch(`${url}/livez`)).status, 200, 'the probe answers');
  release();
  for (const events of await Promise.all(running))
    t.match(events, /"type":"end","answer":"begin end"/, 'a stream ends whole');
  const results = await Promise.all(large);
  t.ok(results.every(([status, reply]) => (status === 200 ? reply.endsWith('[DONE]\n\n') : /overloaded/.test(reply))));
  t.ok(
    results.some(([status]) => status === 200),
    'some large questions are answered',
  );
  child.kill('SIGKILL');
});

t.test('a log that is not read is bounded, and says later how many lines were dropped', async (t) => {
  const upstream = await startUpstream(t, () => {});
  const { url, child, lines } = await runServer(t, { ...bellaAt(upstream.url), LOG_LEVEL: 'info' });
  t.ok(lines.length > 0);
  child.stdout?.pause();
  const dropped = async () =>
    Number(/^sluice_log_lines_dropped_total (\d+)$/m.exec(await (await fetch(`${url}/metrics`)).text())?.[1]);
  // Pipelined, because thousands of lines are needed to fill the queue.
  const client = connect(Number(new URL(url).port), '127.0.0.1').resume();
  t.teardown(() => client.destroy());
  await until(async () => {
    client.write(`GET /unknown HTTP/1.1\r\nHost: sluice\r\n\r\n`.repeat(1_000));
    return (await dropped()) > 0;
  }, 'lines are dropped');
  t.equal((await fetch(`${url}/livez`)).status, 200, 'the service answers');
  child.stdout?.resume();
  let reported: number | undefined;
  let output = '';
  child.stdout?.on('data', (chunk) => {
    output += chunk;
    const line = output.split('\n').find((text) => text.includes('"log lines dropped;'));
    if (line !== undefined) reported = (JSON.parse(line) as { dropped: number }).dropped;
  });
  await until(() => reported !== undefined, 'the log says how many lines were dropped');
  t.ok(reported !== undefined && reported > 0);
});
