import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { systemClock } from '../../plugins/clock.ts';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import type { EndableReader, ReadableLog, Slice, StreamStore, WritableLog } from '../../plugins/streams/types.ts';
import { bellaAt, serve, until } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { deltaText, open, readAll } from '../sse-client.ts';
import { DONE, STOP, startUpstream, text, unfinishedAnswer } from '../upstream.ts';

/** Tests the service on a store whose calls are slow and can fail, as the calls of a remote store. */

interface StoreFaults {
  /** Every call fails. */
  unavailable: boolean;
  /** Readers fail. */
  failReads: boolean;
}

/** A memory store with slow calls, and with the faults that a test switches on. */
function slowStore(faults: StoreFaults = { unavailable: false, failReads: false }): StreamStore {
  const memory = new MemoryStore({
    clock: systemClock,
    highWaterMark: 16_384,
    flushMs: 0,
    ttlMs: 60_000,
    maxTotalBytes: 1e8,
    onEvicted() {},
  });
  const delayed = async <T>(call: () => T | Promise<T>): Promise<T> => {
    await sleep(2); // The latency of a remote store.
    if (faults.unavailable) throw new Error('the store is unavailable');
    return call();
  };
  const slowReader = <S extends Slice>(reader: EndableReader<S>): EndableReader<S> => ({
    async next() {
      const slice = await reader.next();
      await sleep(1);
      if (faults.failReads) throw new Error('the store is unavailable');
      return slice;
    },
    close: () => reader.close(),
    end: (terminal) => reader.end(terminal),
  });
  const slowReadable = (log: ReadableLog): ReadableLog => ({
    info: log.info,
    get resumable() {
      return log.resumable;
    },
    read: async (from) => slowReader(await delayed(() => log.read(from))),
    readAppends: async (after) => slowReader(await delayed(() => log.readAppends(after))),
    stop: () => delayed(() => log.stop()),
  });
  const slowWritable = (log: WritableLog): WritableLog => ({
    ...slowReadable(log),
    get length() {
      return log.length;
    },
    get resumable() {
      return log.resumable;
    },
    subscribe: (events) => log.subscribe(events),
    end: (terminal) => log.end(terminal),
    append: (part) => delayed(() => log.append(part)).then(() => {}),
  });
  return {
    create: (info, key) =>
      delayed(() => memory.create(info, key)).then((result) =>
        result.created
          ? { created: true, log: slowWritable(result.log) }
          : { created: false, log: slowReadable(result.log) },
      ),
    open: (id) => delayed(() => memory.open(id)).then((log) => log && slowReadable(log)),
    openByKey: (key) => delayed(() => memory.openByKey(key)).then((log) => log && slowReadable(log)),
    openByChat: (chat) => delayed(() => memory.openByChat(chat)).then((log) => log && slowReadable(log)),
    close: () => memory.close(),
  };
}

t.test('a slow store delivers the same answer from one upstream call', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one ', 'two '));
  const { url } = await serve(t, { env: bellaAt(upstream.url), store: slowStore() });
  const reading = await open(`${url}/ask/stream?question=q&key=k1`);
  await reading.until('delta');
  const same = await open(`${url}/ask/stream?question=q&key=k1`);
  (await upstream.call(1)).response.end(text('three') + STOP + DONE);
  for (const reader of [reading, same]) {
    t.equal((await reader.until('end')).json.answer, 'one two three');
    t.equal(deltaText(reader), 'one two three');
  }
  t.equal(upstream.calls.length, 1, 'one upstream call');
});

t.test('while the store is unavailable, a resume gets only a retry; afterwards it gets the rest', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one ', 'two '));
  const faults = { unavailable: false, failReads: false };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url), store: slowStore(faults) });
  const askUrl = `${url}/ask/stream?question=q`;
  const reading = await open(askUrl);
  await reading.until('delta');
  const headers = { 'last-event-id': reading.events[0]?.id };
  reading.cut();

  faults.unavailable = true;
  const resumed = await readAll(askUrl, { headers });
  t.equal(
    resumed.response.statusCode,
    200,
    'a resume gets 200, since an EventSource does not retry after an error status',
  );
  t.same(resumed.events, [], 'no event');
  t.ok(resumed.retry, 'a retry field');
  const attach = await readAll(`${url}/streams/${reading.events[0]?.json.stream}`);
  t.equal(attach.response.statusCode, 200, 'a first attach gets 200');
  t.same(attach.events, [], 'a first attach gets no event');
  const question = await readAll(askUrl);
  t.match(
    question.events,
    [{ json: { type: 'error', code: 'overloaded', retryable: true } }],
    'a new question gets the error overloaded',
  );
  for (const response of [
    await postJson(`${url}/streams`, { question: 'q' }),
    await fetch(`${url}/streams/${reading.events[0]?.json.stream}`),
  ]) {
    t.equal(response.status, 503, 'a client that is no EventSource gets 503');
    t.ok(response.headers.get('retry-after'), 'a client that is no EventSource gets Retry-After');
  }

  faults.unavailable = false;
  const again = await open(askUrl, { headers });
  (await upstream.call(1)).response.end(text('three') + STOP + DONE);
  t.equal((await again.until('end')).json.answer, 'one two three');
  t.equal(deltaText(again), 'one two three');
  t.equal(upstream.calls.length, 1, 'one upstream call');
  t.equal(app.streams.active, 0, 'no generation is running');
});

t.test(
  'a store that becomes unavailable between opening and reading a stream: a resume gets only a retry',
  async (t) => {
    const upstream = await startUpstream(t, unfinishedAnswer('one '));
    const available = slowStore();
    const fail = () => Promise.reject(new Error('the store is unavailable'));
    let isUnavailable = false;
    const store: StreamStore = {
      create: (info, key) => available.create(info, key),
      openByKey: (key) => available.openByKey(key),
      openByChat: (chat) => available.openByChat(chat),
      close: () => available.close(),
      async open(id) {
        const log = await available.open(id);
        return log && isUnavailable ? { ...log, read: fail, stop: fail } : log;
      },
    };
    const { url } = await serve(t, { env: bellaAt(upstream.url), store });
    const askUrl = `${url}/ask/stream?question=q`;
    const reading = await open(askUrl);
    await reading.until('delta');
    isUnavailable = true;
    const resumed = await readAll(askUrl, { headers: { 'last-event-id': reading.events.at(-1)?.id } });
    t.equal(resumed.response.statusCode, 200, 'a resume gets 200');
    t.same(resumed.events, [], 'no event');
    const path = `${url}/streams/${reading.events[0]?.json.stream}`;
    t.equal((await fetch(path)).status, 503, 'a read gets 503');
    t.equal((await fetch(path, { method: 'DELETE' })).status, 503, 'a stop gets 503');
    reading.cut();
  },
);

t.test('MAX_GENERATIONS and a drain include streams that are still being created', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const env = bellaAt(upstream.url, { MAX_GENERATIONS: '2' });
  const { app } = await serve(t, { env, store: slowStore() });
  const start = () => app.inject({ method: 'POST', url: '/streams', payload: { question: 'q' } });
  const statuses = (await Promise.all(Array.from({ length: 10 }, start))).map(({ statusCode }) => statusCode);
  t.same(statuses.sort(), [201, 201, ...Array(8).fill(503)], 'two of ten concurrent questions are accepted');
  t.equal(app.streams.active, 2);

  const { app: draining } = await serve(t, { env: bellaAt(upstream.url), store: slowStore() });
  const starting = draining.inject({ method: 'POST', url: '/streams', payload: { question: 'q' } });
  await until(() => draining.streams.active > 0, 'the slot is reserved');
  await draining.lifecycle.drain();
  t.equal((await starting).statusCode, 201);
  t.equal(draining.streams.active, 0, 'no generation is running after the drain');
});

t.test('a read that fails ends the response without an error event, and a resume gets the rest', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one ', 'two '));
  const faults = { unavailable: false, failReads: false };
  const { url } = await serve(t, { env: bellaAt(upstream.url), store: slowStore(faults) });
  const askUrl = `${url}/ask/stream?question=q`;
  const reading = await open(askUrl);
  await reading.until('delta');
  faults.failReads = true;
  const call = await upstream.call(1);
  call.response.write(text('three '));
  t.equal(await reading.ended, true, 'the response ends properly');
  t.notOk(
    reading.events.some(({ json }) => ['end', 'error'].includes(json.type)),
    'no terminal event',
  );
  faults.failReads = false;
  const resumed = await open(askUrl, { headers: { 'last-event-id': reading.events.at(-1)?.id } });
  call.response.end(text('four') + STOP + DONE);
  await resumed.until('end');
  t.equal(deltaText(reading) + deltaText(resumed), 'one two three four');
});

t.test('an append that fails cancels the upstream call and releases the slot', async (t) => {
  const upstream = await startUpstream(t, unfinishedAnswer('one '));
  const faults = { unavailable: false, failReads: false };
  const { app, url } = await serve(t, { env: bellaAt(upstream.url), store: slowStore(faults) });
  const reading = await open(`${url}/ask/stream?question=q`);
  await reading.until('delta');
  faults.unavailable = true;
  const call = await upstream.call(1);
  call.response.write(text('two '));
  await call.closed;
  t.equal(app.streams.active, 0);
  reading.cut();
});
