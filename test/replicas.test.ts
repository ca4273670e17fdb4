import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { until } from './helper.ts';
import { noRedis } from './redis.ts';
import { startReplicas } from './replicas.ts';
import { deltaText, open, readAll } from './sse-client.ts';
import { DONE, STOP, sse, text, unfinishedAnswer } from './upstream.ts';

/** What one replica began any other reads, stops and finds, as if it were its own. */

t.test('across replicas', { skip: noRedis }, async (t) => {
  t.jobs = 4;

  t.test('a stream is resumed on another replica, from any place, while it runs and after it', async (t) => {
    const { upstream, a, b } = await startReplicas(t, unfinishedAnswer('one 你', '好 🚀 '));
    const reading = await open(`${a.url}/ask/stream?question=q`);
    await until(() => deltaText(reading) === 'one 你好 🚀 ', 'both deltas are here');
    const { id: last } = reading.events.at(-1) as { id: string };
    const { id: first, json: start } = reading.events[0] as { id: string; json: { url: string; resumable: boolean } };
    t.equal(start.resumable, true);
    reading.cut();
    const rest = await open(`${b.url}/ask/stream?question=q`, { headers: { 'last-event-id': last } });
    const whole = await open(`${b.url}${start.url}`, { headers: { 'last-event-id': first } });
    const { response } = await upstream.call(1);
    response.write(text('three '));
    await rest.until('delta');
    response.end(text('four') + STOP + DONE);
    t.equal((await rest.until('end')).json.answer, 'one 你好 🚀 three four');
    t.equal(deltaText(rest), 'three four', 'nothing twice, nothing lost');
    await whole.until('end');
    t.equal(deltaText(whole), 'one 你好 🚀 three four');
    await Promise.all([rest.ended, whole.ended]);
    const later = await readAll(`${b.url}${start.url}`);
    t.equal(deltaText(later), 'one 你好 🚀 three four');
    t.equal(later.events.at(-1)?.json.answer, 'one 你好 🚀 three four');
    t.equal(upstream.calls.length, 1);
  });

  t.test('readers on any replica count for the grace time', async (t) => {
    const { upstream, a, b } = await startReplicas(t, unfinishedAnswer('x'), { STREAM_GRACE_MS: '1000' });
    const reading = await open(`${a.url}/ask/stream?question=q`);
    const { json } = await reading.until('start');
    await reading.until('delta');
    const other = await open(`${b.url}${json.url}`);
    await other.until('delta');
    reading.cut();
    const call = await upstream.call(1);
    for (let i = 0; i < 10; i++) {
      await sleep(1_000);
      call.response.write(text('x'));
    }
    t.equal(call.closedAt, undefined, 'ten seconds later the call goes on for the reader elsewhere');
    const left = performance.now();
    other.cut();
    await call.closed;
    const took = (call.closedAt as number) - left;
    t.ok(took > 900, `aborted ${Math.round(took)} ms after it has left`);
  });

  t.test('a stop on another replica ends the call', async (t) => {
    const { upstream, a, b } = await startReplicas(t, unfinishedAnswer('so far'));
    const reading = await open(`${a.url}/ask/stream?question=q`);
    const { json } = await reading.until('start');
    await reading.until('delta');
    const stopped = await fetch(`${b.url}${json.url}/stop`, { method: 'POST' });
    t.equal(stopped.status, 204);
    const end = await reading.until('end');
    t.match(end.json, { answer: 'so far', finishReason: 'stopped' });
    await (await upstream.call(1)).closed;
    t.equal((await fetch(`${b.url}${json.url}`, { method: 'DELETE' })).status, 204, 'and again: nothing happens');
  });

  t.test('a key stands for one stream everywhere', async (t) => {
    const { upstream, a, b } = await startReplicas(t, unfinishedAnswer('x'));
    const ask = ({ url }: { url: string }, question = 'q') =>
      open(`${url}/ask/stream?question=${question}&key=0123456789abcdef`);
    const readings = await Promise.all(Array.from({ length: 20 }, (_, i) => ask(i % 2 ? a : b)));
    const ids = await Promise.all(readings.map(async (one) => (await one.until('start')).json.stream));
    t.equal(new Set(ids).size, 1);
    t.equal((await ask(b, 'other')).response.statusCode, 409);
    t.equal((await ask(a, 'other')).response.statusCode, 409);
    (await upstream.call(1)).response.end(STOP + DONE);
    await Promise.all(readings.map((one) => one.until('end')));
    t.equal(upstream.calls.length, 1);
  });

  t.test('a slow reader on another replica slows the upstream', async (t) => {
    const block = 'x'.repeat(8_192);
    let written = 0;
    const { a, b } = await startReplicas(
      t,
      async ({ response }) => {
        sse(response);
        for (let i = 0; i < 3_000 && !response.destroyed; i++) {
          written += block.length;
          if (!response.write(text(block))) await new Promise((resolve) => response.once('drain', resolve));
        }
        response.end(STOP + DONE);
      },
      { STREAM_MAX_CHARS: '100000000' },
    );
    const started = await fetch(`${a.url}/streams`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ question: 'q' }),
    });
    const { url } = (await started.json()) as { url: string };
    const reading = await open(`${b.url}${url}`);
    reading.response.pause();
    let before = -1;
    await until(() => written > 0, 'it has begun');
    while (written !== before) {
      before = written;
      await sleep(500);
    }
    t.ok(written < 3_000 * 8_192 * 0.75, `${written} characters, then it waits`);
    reading.response.resume();
    const end = await reading.until('end');
    t.equal(end.json.answer.length, 3_000 * 8_192);
    t.equal(deltaText(reading).length, 3_000 * 8_192);
  });

  t.test('a conversation is found on another replica', async (t) => {
    const { upstream, a, b } = await startReplicas(t, unfinishedAnswer('x'));
    const chat = {
      id: 'chat-1',
      resumable: true,
      messages: [{ id: 'm', role: 'user', parts: [{ type: 'text', text: 'q' }] }],
    };
    const first = await open(`${a.url}/ui/chat`, { body: chat });
    await first.until('text-delta');
    const again = await open(`${b.url}/ui/chat/chat-1/stream`);
    await again.until('text-delta');
    (await upstream.call(1)).response.end(STOP + DONE);
    await again.until('finish');
    await first.until('finish');
    await first.ended;
    t.equal((await fetch(`${b.url}/ui/chat/chat-1/stream`)).status, 204, 'not when it has ended');
  });

  t.test('whatever is left in Redis has a time to live', async (t) => {
    const { redis, upstream, a, b } = await startReplicas(t, unfinishedAnswer('x'), { STREAM_TTL_MS: '2000' });
    const reading = await open(`${a.url}/ask/stream?question=q&key=0123456789abcdef`);
    const { json } = await reading.until('start');
    for (const key of await redis.client.keys('*')) t.ok((await redis.client.pttl(key)) > 0, key);
    (await upstream.call(1)).response.end(STOP + DONE);
    await reading.until('end');
    const keys = () => redis.client.keys('*');
    await until(async () => (await keys()).every((key) => key.includes('replica')), 'all but the leases has expired');
    t.equal((await keys()).length, 2, 'one lease of each replica');
    t.equal((await fetch(`${b.url}${json.url}`)).status, 404);
  });
});
