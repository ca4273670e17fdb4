import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import t from 'tap';
import { systemClock } from '../../plugins/clock.ts';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import type { LogReader, ReadableLog, StreamStore, WritableLog } from '../../plugins/streams/types.ts';
import { bellaAt, serve } from '../helper.ts';
import { deltaText, open, readAll } from '../sse-client.ts';
import { DONE, STOP, startUpstream, text, unfinishedAnswer } from '../upstream.ts';

/** A store far away: every call takes its time, and any may fail. Nothing may assume otherwise. */

interface Distance {
  away: boolean;
  failReads: boolean;
}

export function distant(distance: Distance): StreamStore {
  const near = new MemoryStore({
    clock: systemClock,
    highWaterMark: 16_384,
    flushMs: 0,
    ttlMs: 60_000,
    maxTotalBytes: 1e8,
    onEvicted() {},
  });
  const travel = async <T>(call: () => T | Promise<T>): Promise<T> => {
    await sleep(2);
    if (distance.away) throw new Error('the store is away');
    return call();
  };
  const farReader = (reader: LogReader): LogReader => ({
    async next() {
      const slice = await reader.next();
      await sleep(1);
      if (distance.failReads) throw new Error('the store is away');
      return slice;
    },
    close: () => reader.close(),
  });
  const farReadable = (log: ReadableLog): ReadableLog => ({
    info: log.info,
    get resumable() {
      return log.resumable;
    },
    read: async (from) => farReader(await travel(() => log.read(from))),
    stop: () => travel(() => log.stop()),
  });
  const farWritable = (log: WritableLog): WritableLog => ({
    ...farReadable(log),
    get length() {
      return log.length;
    },
    get resumable() {
      return log.resumable;
    },
    subscribe: (events) => log.subscribe(events),
    end: (terminal) => log.end(terminal),
    append: (part) => travel(() => log.append(part)).then(() => {}),
  });
  return {
    create: (info, key) =>
      travel(() => near.create(info, key)).then((result) =>
        result.created
          ? { created: true, log: farWritable(result.log) }
          : { created: false, log: farReadable(result.log) },
      ),
    open: (id) => travel(() => near.open(id)).then((log) => log && farReadable(log)),
    openByKey: (key) => travel(() => near.openByKey(key)).then((log) => log && farReadable(log)),
    openByChat: (chat) => travel(() => near.openByChat(chat)).then((log) => log && farReadable(log)),
    close: () => near.close(),
  };
}

t.test('a slow store: the same answer', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one ', 'two '));
  const store = distant({ away: false, failReads: false });
  const { url } = await serve(t, { env: bellaAt(upstream.url), store });
  const reading = await open(`${url}/ask/stream?question=q&key=k1`);
  await reading.until('delta');
  const same = await open(`${url}/ask/stream?question=q&key=k1`);
  (await upstream.call(1)).response.end(text('three') + STOP + DONE);
  for (const one of [reading, same]) {
    t.equal((await one.until('end')).json.answer, 'one two three');
    t.equal(deltaText(one), 'one two three');
  }
  t.equal(upstream.calls.length, 1);
});

t.test('a store that is away: a resume is told to come back, and finds everything when it does', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one ', 'two '));
  const distance = { away: false, failReads: false };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url), store: distant(distance) });
  const ask = `${url}/ask/stream?question=q`;
  const reading = await open(ask);
  await reading.until('delta');
  const headers = { 'last-event-id': reading.events[0]?.id };
  reading.cut();

  distance.away = true;
  const refused = await readAll(ask, { headers });
  t.equal(refused.response.statusCode, 200, 'an EventSource gives up on anything else');
  t.same(refused.events, []);
  t.ok(refused.retry, 'only a retry');
  const attach = await readAll(`${url}/streams/${reading.events[0]?.json.stream}`);
  t.equal(attach.response.statusCode, 200, 'nor is a first attach lost');
  t.same(attach.events, []);
  const question = await readAll(ask);
  t.match(
    question.events,
    [{ json: { type: 'error', code: 'overloaded', retryable: true } }],
    'a new question is told so',
  );
  for (const [path, init] of [
    ['/streams', { method: 'POST', body: '{"question":"q"}', headers: { 'content-type': 'application/json' } }],
    [`/streams/${reading.events[0]?.json.stream}`, {}],
  ] as const) {
    const response = await fetch(url + path, init);
    t.equal(response.status, 503, 'other clients get a status');
    t.ok(response.headers.get('retry-after'));
  }

  distance.away = false;
  const back = await open(ask, { headers });
  (await upstream.call(1)).response.end(text('three') + STOP + DONE);
  t.equal((await back.until('end')).json.answer, 'one two three');
  t.equal(deltaText(back), 'one two three');
  t.equal(upstream.calls.length, 1, 'asked once');
  t.equal(app.streams.active, 0);
});

t.test('a store that goes away between finding a stream and reading it', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const near = distant({ away: false, failReads: false });
  const gone = () => Promise.reject(new Error('away'));
  let away = false;
  const store: StreamStore = {
    create: (info, key) => near.create(info, key),
    openByKey: (key) => near.openByKey(key),
    openByChat: (chat) => near.openByChat(chat),
    close: () => near.close(),
    async open(id) {
      const log = await near.open(id);
      return log && away ? { ...log, read: gone, stop: gone } : log;
    },
  };
  const { url } = await serve(t, { env: bellaAt(upstream.url), store });
  const ask = `${url}/ask/stream?question=q`;
  const reading = await open(ask);
  await reading.until('delta');
  away = true;
  const resumed = await readAll(ask, { headers: { 'last-event-id': reading.events.at(-1)?.id } });
  t.equal(resumed.response.statusCode, 200, 'a browser is told to come back');
  t.same(resumed.events, []);
  const path = `${url}/streams/${reading.events[0]?.json.stream}`;
  t.equal((await fetch(path)).status, 503);
  t.equal((await fetch(path, { method: 'DELETE' })).status, 503);
  reading.cut();
});

t.test('slots and the drain count what is about to start', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const store = distant({ away: false, failReads: false });
  const { app } = await serve(t, { env: bellaAt(upstream.url, { MAX_GENERATIONS: '2' }), store });
  const start = () => app.inject({ method: 'POST', url: '/streams', payload: { question: 'q' } });
  const statuses = (await Promise.all(Array.from({ length: 10 }, start))).map(({ statusCode }) => statusCode);
  t.same(statuses.sort(), [201, 201, ...Array(8).fill(503)], 'two of ten that race');
  t.equal(app.streams.active, 2);

  const other = (await serve(t, { env: bellaAt(upstream.url), store: distant({ away: false, failReads: false }) })).app;
  const late = other.inject({ method: 'POST', url: '/streams', payload: { question: 'q' } });
  while (other.streams.active === 0) await turn();
  await other.lifecycle.drain();
  t.equal((await late).statusCode, 201);
  t.equal(other.streams.active, 0, 'and nothing is left to run for nobody');
});

t.test('a store that fails under a reader: the response ends, the browser comes back', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one ', 'two '));
  const distance = { away: false, failReads: false };
  const { url } = await serve(t, { env: bellaAt(upstream.url), store: distant(distance) });
  const ask = `${url}/ask/stream?question=q`;
  const reading = await open(ask);
  await reading.until('delta');
  distance.failReads = true;
  const call = await upstream.call(1);
  call.response.write(text('three '));
  t.equal(await reading.ended, true, 'ended, and not with an error event');
  t.notOk(reading.events.some(({ json }) => ['end', 'error'].includes(json.type)));
  distance.failReads = false;
  const back = await open(ask, { headers: { 'last-event-id': reading.events.at(-1)?.id } });
  call.response.end(text('four') + STOP + DONE);
  await back.until('end');
  t.equal(deltaText(reading) + deltaText(back), 'one two three four');
});

t.test('a store that fails under a producer: the call is ended, not left running', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const distance = { away: false, failReads: false };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url), store: distant(distance) });
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('delta');
  distance.away = true;
  const call = await upstream.call(1);
  call.response.write(text('two '));
  await call.closed;
  t.equal(app.streams.active, 0);
  reading.cut();
});
