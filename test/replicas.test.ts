import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { until } from './helper.ts';
import { postJson } from './post-json.ts';
import { noRedis } from './redis.ts';
import { openStream, startReplicas } from './replicas.ts';
import { deltaText, open } from './sse-client.ts';
import { DONE, STOP, sse, text, unfinishedAnswer } from './upstream.ts';

/** Every replica can read, stop and find the streams that another replica produces. */

t.test('streams across replicas', { skip: noRedis }, async (t) => {
  t.jobs = 4;

  t.test('another replica resumes a stream from any position, during the generation and afterwards', async (t) => {
    const { upstream, a, b } = await startReplicas(t, unfinishedAnswer('one 你', '好 🚀 '));
    const reading = await open(`${a.url}/ask/stream?question=q`);
    await until(() => deltaText(reading) === 'one 你好 🚀 ', 'the reader has both deltas');
    const { id: last } = reading.events.findLast(({ json }) => json.type === 'delta') as { id: string };
    const { id: first, json: start } = reading.events[0] as { id: string; json: { url: string } };
    // On a busy machine, Redis may have counted as unavailable for a moment.
    await until(() => reading.events.findLast(({ json }) => 'resumable' in json)?.json.resumable, 'it is resumable');
    reading.cut();
    const rest = await openStream(b, '/ask/stream?question=q', { 'last-event-id': last });
    const fromStart = await openStream(b, start.url, { 'last-event-id': first });
    const { response } = await upstream.call(1);
    response.write(text('three '));
    await rest.until('delta');
    response.end(text('four') + STOP + DONE);
    t.equal((await rest.until('end')).json.answer, 'one 你好 🚀 three four', '`end` has the complete answer');
    t.equal(deltaText(rest), 'three four', 'a resume behind the last event gets the rest, once');
    await fromStart.until('end');
    t.equal(deltaText(fromStart), 'one 你好 🚀 three four', 'a resume behind `start` gets every delta');
    await Promise.all([rest.ended, fromStart.ended]);
    const later = await openStream(b, start.url);
    await later.ended;
    t.equal(deltaText(later), 'one 你好 🚀 three four', 'a read after the end gets every delta');
    t.equal(later.events.at(-1)?.json.answer, 'one 你好 🚀 three four', 'a read after the end gets `end`');
    t.equal(upstream.calls.length, 1, 'the upstream is called once');
  });

  t.test('a reader on another replica keeps a generation running; its disconnect starts the grace time', async (t) => {
    const { upstream, a, b } = await startReplicas(t, unfinishedAnswer('x'), { STREAM_GRACE_MS: '1000' });
    const reading = await open(`${a.url}/ask/stream?question=q`);
    const { json } = await reading.until('start');
    await reading.until('delta');
    const other = await openStream(b, json.url as string);
    await other.until('delta');
    reading.cut();
    const call = await upstream.call(1);
    for (let i = 0; i < 10; i++) {
      await sleep(1_000); // Paces the upstream for ten times the grace time.
      call.response.write(text('x'));
    }
    t.equal(call.closedAt, undefined, 'the call continues for the reader on B');
    const cutAt = performance.now();
    other.cut();
    await call.closed;
    const took = (call.closedAt as number) - cutAt;
    t.ok(took > 900, `the call is aborted after the grace time (${Math.round(took)} ms)`);
  });

  t.test('a stop on another replica aborts the upstream call', async (t) => {
    const { upstream, a, b } = await startReplicas(t, unfinishedAnswer('so far'));
    const reading = await open(`${a.url}/ask/stream?question=q`);
    const { json } = await reading.until('start');
    await reading.until('delta');
    // 503 while Redis counts as unavailable.
    const stop = async () => (await fetch(`${b.url}${json.url}/stop`, { method: 'POST' })).status === 204;
    await until(stop, 'the stop is accepted');
    const end = await reading.until('end');
    t.match(end.json, { answer: 'so far', finishReason: 'stopped' }, 'the reader gets `end`');
    await (await upstream.call(1)).closed;
    const again = await fetch(`${b.url}${json.url}`, { method: 'DELETE' });
    t.equal(again.status, 204, 'a second stop has no effect');
  });

  t.test('questions with the same key start one stream on all replicas', async (t) => {
    const { upstream, a, b } = await startReplicas(t, unfinishedAnswer('x'));
    const ask = ({ url }: { url: string }, question = 'q') =>
      open(`${url}/ask/stream?question=${question}&key=0123456789abcdef`);
    const readings = await Promise.all(Array.from({ length: 20 }, (_, i) => ask(i % 2 ? a : b)));
    const ids = await Promise.all(readings.map(async (reading) => (await reading.until('start')).json.stream));
    t.equal(new Set(ids).size, 1, 'every reader gets the same stream');
    t.equal((await ask(b, 'other')).response.statusCode, 409, 'another question with the key is refused on B');
    t.equal((await ask(a, 'other')).response.statusCode, 409, 'another question with the key is refused on A');
    (await upstream.call(1)).response.end(STOP + DONE);
    await Promise.all(readings.map((reading) => reading.until('end')));
    t.equal(upstream.calls.length, 1, 'the upstream is called once');
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
    const started = await postJson(`${a.url}/streams`, { question: 'q' });
    const { url } = (await started.json()) as { url: string };
    const reading = await openStream(b, url);
    reading.response.pause();
    let writtenBefore = -1;
    await until(() => written > 0, 'the upstream has started');
    // Back-pressure has stopped the upstream when it writes nothing for half a second.
    while (written !== writtenBefore) {
      writtenBefore = written;
      await sleep(500);
    }
    t.ok(written < 3_000 * 8_192 * 0.75, `the upstream stops after ${written} characters`);
    reading.response.resume();
    const end = await reading.until('end');
    t.equal(end.json.answer.length, 3_000 * 8_192, '`end` has the complete answer');
    t.equal(deltaText(reading).length, 3_000 * 8_192, 'the deltas make the complete answer');
  });

  t.test('a conversation can be resumed on another replica until its answer has ended', async (t) => {
    const { upstream, a, b } = await startReplicas(t, unfinishedAnswer('x'));
    const chat = {
      id: 'chat-1',
      resumable: true,
      messages: [{ id: 'm', role: 'user', parts: [{ type: 'text', text: 'q' }] }],
    };
    const first = await open(`${a.url}/ui/chat`, { body: chat });
    await first.until('text-delta');
    const resumed = await openStream(b, '/ui/chat/chat-1/stream');
    await resumed.until('text-delta');
    (await upstream.call(1)).response.end(STOP + DONE);
    await resumed.until('finish');
    await first.until('finish');
    await first.ended;
    t.equal((await fetch(`${b.url}/ui/chat/chat-1/stream`)).status, 204, 'after the end there is nothing to resume');
  });

  t.test('every key in Redis has a time to live and expires', async (t) => {
    const { redis, upstream, a, b } = await startReplicas(t, unfinishedAnswer('x'), { STREAM_TTL_MS: '2000' });
    const reading = await open(`${a.url}/ask/stream?question=q&key=0123456789abcdef`);
    const { json } = await reading.until('start');
    // -1 is a key without an end; one that has expired meanwhile is -2.
    for (const key of await redis.client.keys('*')) t.not(await redis.client.pttl(key), -1, `${key} expires`);
    (await upstream.call(1)).response.end(STOP + DONE);
    await reading.until('end');
    const keys = () => redis.client.keys('*');
    await until(async () => (await keys()).every((key) => key.includes('replica')), 'only the replicas are left');
    t.equal((await keys()).length, 3, 'the lease of each, and their names');
    t.equal((await fetch(`${b.url}${json.url}`)).status, 404, 'the expired stream is unknown');
  });
});
