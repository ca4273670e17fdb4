import { once } from 'node:events';
import { Agent, type IncomingMessage, request as send } from 'node:http';
import { connect } from 'node:net';
import { text as readAll } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import Fastify from 'fastify';
import t, { type Test } from 'tap';
import clockPlugin from '../../plugins/clock.ts';
import metrics from '../../plugins/metrics/index.ts';
import type { EventFeed, OutgoingEvent } from '../../plugins/sse/api.ts';
import sse, { type SseOptions } from '../../plugins/sse/index.ts';
import { captureLog, until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';
import { open } from '../sse-client.ts';

/** The plugin without the rest of the service. The test sends the items of each feed, on a clock that it advances. */

const HEARTBEAT_MS = 4_000;
/** More than the socket buffers of both sides hold. */
const LONG = 'x'.repeat(10_000_000);

/** An item with its events. `last` ends its feed. */
interface Item {
  readonly events: readonly OutgoingEvent[];
  readonly last?: boolean;
}

const item = (data: string, last = false): Item => ({ events: [{ data }], last });

/** A feed whose items the test sends. */
function testFeed(more: Partial<EventFeed<Item>> = {}) {
  const items: (Item | Error)[] = [];
  let wake = () => {};
  const state = { closed: 0, asked: 0 };
  const feed: EventFeed<Item> = {
    async next() {
      state.asked += 1;
      while (items.length === 0) await new Promise<void>((resolve) => (wake = resolve));
      const next = items.shift() as Item | Error;
      if (next instanceof Error) throw next;
      return next;
    },
    close: () => (state.closed += 1),
    encode: ({ events }) => events,
    isLast: ({ last = false }) => last,
    ...more,
  };
  return {
    feed,
    state,
    send(...next: (Item | Error)[]) {
      items.push(...next);
      wake();
    },
  };
}

type TestFeed = ReturnType<typeof testFeed>;

/** Starts the plugin, with a route for each feed. */
async function setUp(t: Test, feeds: Record<string, TestFeed | undefined>, options: Partial<SseOptions> = {}) {
  const clock = manualClock();
  const { logTo, log } = captureLog();
  const app = Fastify({ logger: { stream: logTo, level: 'error' } });
  await app.register(clockPlugin, { clock });
  await app.register(metrics, { hasRedis: false });
  const revoke = new Set<() => void>();
  const credential = {
    onRevoked(listener: () => void) {
      revoke.add(listener);
      return () => revoke.delete(listener);
    },
  };
  app.addHook('onRequest', async (request) => void Object.assign(request, { identity: { owner: 'o', credential } }));
  await app.register(sse, { heartbeatMs: HEARTBEAT_MS, stallMs: 60_000, maxConnectionMs: 0, ...options });
  for (const [name, feed] of Object.entries(feeds)) {
    app.get(`/${name}`, async (request, reply) => {
      if (name === 'late') await once(request.raw.socket, 'close');
      return reply.header('x-route', name).stream(name === 'silent' ? [] : [{ data: 'opening' }], feed?.feed);
    });
  }
  t.teardown(() => app.close());
  return {
    ...{ app, clock, log, revoke },
    url: await app.listen({ port: 0, host: '127.0.0.1' }),
    value: (name: string, labels = {}) => metricValue(app, `sluice_${name}`, labels),
  };
}

const dataOf = ({ events }: { events: { data: string }[] }) => events.map(({ data }) => data);

t.test('a response starts at once with its headers and opening events, and ends after the last item', async (t) => {
  const a = testFeed();
  const { url, app, value } = await setUp(t, { a });
  const reading = await open(`${url}/a`);
  t.equal(reading.response.statusCode, 200);
  t.match(reading.response.headers, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no',
    incremental: '?1',
    'x-route': 'a',
  });
  await until(() => reading.events.length === 1, 'the opening event');
  t.equal(app.responses.open, 1);
  t.equal(await value('responses_open'), 1);
  a.send(item('1'), item('2'), item('3', true), item('not asked for'));
  t.equal(await reading.ended, true, 'a clean end');
  t.same(dataOf(reading), ['opening', '1', '2', '3']);
  await until(() => app.responses.open === 0, 'the response is closed');
  t.equal(a.state.asked, 3);
  t.ok(a.state.closed > 0, 'the feed is closed');
  t.equal(await value('responses_open'), 0);
  t.equal(await value('events_out_total'), 4);
  t.equal(await value('responses_aborted_total'), 0);
});

t.test('without a feed the response ends after its opening events', async (t) => {
  const { url } = await setUp(t, { none: undefined });
  const reading = await open(`${url}/none`);
  t.equal(await reading.ended, true);
  t.same(dataOf(reading), ['opening']);
});

t.test('a client that leaves closes the feed and counts as aborted', async (t) => {
  const a = testFeed();
  const { url, app, value, revoke } = await setUp(t, { a });
  const reading = await open(`${url}/a`);
  t.equal(revoke.size, 1);
  reading.cut();
  await until(() => a.state.closed > 0, 'the feed is closed');
  a.send(item('late'));
  t.equal(app.responses.open, 0);
  t.equal(revoke.size, 0, 'nothing is left at the credential');
  t.equal(await value('responses_open'), 0);
  t.equal(await value('responses_aborted_total'), 1);
  t.equal(await value('events_out_total'), 1);
});

t.test('a client that has left before its answer begins closes the feed', async (t) => {
  const late = testFeed();
  const { url, app, value, revoke } = await setUp(t, { late });
  const outgoing = send(`${url}/late`, { agent: false });
  outgoing.on('error', () => {}).end();
  await once(app.server, 'request');
  outgoing.destroy();
  await until(() => late.state.closed === 1, 'the feed is closed');
  t.equal(late.state.asked, 0, 'nothing is read');
  t.equal(app.responses.open, 0);
  t.equal(revoke.size, 0);
  t.equal(await value('responses_open'), 0);
});

t.test('headers are sent at once, also without opening events', async (t) => {
  const silent = testFeed();
  const { url } = await setUp(t, { silent });
  const reading = await open(`${url}/silent`);
  t.equal(reading.response.statusCode, 200);
  reading.cut();
});

t.test('each response of a connection counts its own bytes', async (t) => {
  const { url, app, value } = await setUp(t, { none: undefined });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  t.teardown(() => agent.destroy());
  const bytes: number[] = [];
  for (let i = 0; i < 3; i++) {
    const outgoing = send(`${url}/none`, { agent });
    outgoing.end();
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
    t.equal(await readAll(response), 'data: opening\n\n');
    await until(() => app.responses.open === 0, 'the response is closed');
    bytes.push(await value('bytes_out_total'));
  }
  const [one = 0] = bytes;
  t.ok(one > 200, `${one} bytes`);
  t.same(bytes, [one, 2 * one, 3 * one]);
});

t.test('a silent response gets the heartbeat of its feed, or a comment', async (t) => {
  const a = testFeed();
  const b = testFeed({ heartbeat: () => ({ data: 'alive' }) });
  const { url, clock, value } = await setUp(t, { a, b });
  const [readingA, readingB] = [await open(`${url}/a`), await open(`${url}/b`)];
  clock.advance(HEARTBEAT_MS / 2);
  a.send(item('1'));
  await until(() => readingA.events.length === 2, 'an item');
  clock.advance(HEARTBEAT_MS / 2);
  await until(() => readingB.events.length === 2, 'a heartbeat');
  t.same(dataOf(readingB), ['opening', 'alive']);
  t.same(readingA.comments, [], 'something was written');
  clock.advance(HEARTBEAT_MS);
  await until(() => readingA.comments.length > 0, 'a comment');
  await until(() => readingB.events.length > 2, 'another heartbeat');
  b.send(item('last', true));
  a.send(item('last', true));
  t.equal(await readingA.ended, true);
  t.equal(await readingB.ended, true);
  t.ok(readingA.comments.length <= 2, `${readingA.comments.length} comments in two intervals`);
  t.ok(readingA.comments.every((comment) => comment === 'hb'));
  await until(async () => (await value('responses_open')) === 0, 'both are closed');
  const received = readingA.events.length + readingA.comments.length + readingB.events.length;
  t.equal(await value('events_out_total'), received, 'heartbeats count');
});

t.test('the key of a caller is revoked: a client that does not read is cut after three seconds', async (t) => {
  const [a, b] = [testFeed(), testFeed()];
  const { url, app, clock, revoke } = await setUp(t, { a, b });
  const readings = [await open(`${url}/a`), await open(`${url}/b`)];
  const timers = clock.pending;
  for (const listener of revoke) listener();
  b.send(item('error', true));
  t.equal(await readings[1]?.ended, true, 'a client that reads its last event has a clean end');
  await until(() => app.responses.open === 1, 'its response is closed');
  t.equal(clock.pending, timers + 1, 'its timer is gone');
  clock.advance(2_999);
  t.equal(a.state.closed, 0);
  clock.advance(1);
  t.equal(await readings[0]?.ended, false, 'the other is cut');
  await until(() => a.state.closed > 0, 'its feed is closed');
});

t.test('a client that reads nothing is cut and counted; one that is sent nothing is not', async (t) => {
  const [a, b] = [testFeed(), testFeed()];
  const { url, app, value } = await setUp(t, { a, b }, { stallMs: 50 });
  const readings = [await open(`${url}/a`), await open(`${url}/b`)];
  readings[0]?.response.pause();
  a.send(item(LONG), item('2'));
  await until(() => app.responses.open === 1, 'the response is cut');
  t.equal(await value('responses_stalled_total'), 1);
  t.equal(await value('responses_aborted_total'), 0);
  await sleep(60);
  t.equal(app.responses.open, 1, 'the silent response stays');
  readings[1]?.cut();
});

t.test('nothing is read for a client that does not read what was written', async (t) => {
  const a = testFeed();
  const { url } = await setUp(t, { a });
  const reading = await open(`${url}/a`);
  reading.response.pause();
  a.send(item(LONG), item('2'), item('3', true));
  await sleep(20);
  t.equal(a.state.asked, 1, 'the next item waits');
  reading.response.resume();
  t.equal(await reading.ended, true);
  t.same(dataOf(reading).slice(2), ['2', '3']);
});

t.test('a drain ends the responses whose clients can resume elsewhere', async (t) => {
  const feeds = {
    resumes: testFeed({ canResumeElsewhere: () => true }),
    cut: testFeed({ canResumeElsewhere: () => true, breaksOffEarly: true }),
    stays: testFeed({ canResumeElsewhere: () => false }),
    plain: testFeed(),
  };
  const { url, app, value } = await setUp(t, feeds);
  const readings = [];
  for (const name of Object.keys(feeds)) {
    const reading = await open(`${url}/${name}`);
    await until(() => reading.events.length === 1, 'the opening event');
    readings.push(reading);
  }
  app.responses.disconnectResumable();
  t.equal(await readings[0]?.ended, true, 'a clean end for a client that reconnects after it');
  t.equal(await readings[1]?.ended, false, 'a broken one for a client that takes a clean end for the end of all');
  await until(() => app.responses.open === 2, 'two are left');
  t.equal(await value('responses_aborted_total'), 0, 'they are not taken for clients that have left');
  t.equal(await value('requests_total', { status: '200' }), 2);
  for (const feed of [feeds.stays, feeds.plain]) feed.send(item('last', true));
  t.equal(await readings[2]?.ended, true);
  t.equal(await readings[3]?.ended, true);
});

t.test('waiting until all responses have closed', async (t) => {
  const [a, b] = [testFeed(), testFeed()];
  const { url, app, clock } = await setUp(t, { a, b });
  const readings = [await open(`${url}/a`), await open(`${url}/b`)];
  let isOver = false;
  const over = app.responses.waitUntilClosed(1_000).then(() => (isOver = true));
  a.send(item('last', true));
  t.equal(await readings[0]?.ended, true);
  await until(() => app.responses.open === 1, 'one is left');
  clock.advance(999);
  await sleep(5);
  t.equal(isOver, false, 'the other is still open');
  clock.advance(1);
  await over;
  t.equal(await readings[1]?.ended, false, 'it is cut after that time');
  await until(() => app.responses.open === 0, 'no response is open');
  const timers = clock.pending;
  await app.responses.waitUntilClosed(1_000);
  t.equal(clock.pending, timers, 'without a response there is nothing to wait for');
});

t.test('a response ends before its longest time if its client reconnects', async (t) => {
  let canReconnect = false;
  const a = testFeed({ canReconnect: () => canReconnect });
  const [b, c] = [testFeed(), testFeed({ canReconnect: () => true, breaksOffEarly: true })];
  const { url, app, clock, value } = await setUp(t, { a, b, c }, { maxConnectionMs: 10_000, heartbeatMs: 60_000 });
  const readings = [await open(`${url}/a`), await open(`${url}/b`), await open(`${url}/c`)];
  clock.advance(7_900);
  t.equal(app.responses.open, 3);
  clock.advance(2_100);
  t.equal(await readings[2]?.ended, false, 'a client that takes a clean end for the end of all is cut');
  t.equal(await value('responses_rotated_total'), 1);
  canReconnect = true;
  clock.advance(20);
  t.equal(await readings[0]?.ended, true, 'one that could not reconnect ends later');
  t.equal(await value('responses_rotated_total'), 2);
  await until(() => app.responses.open === 1, 'one never ends');
  t.equal(await value('responses_aborted_total'), 0);
  readings[1]?.cut();
});

t.test('a feed that fails ends its response without a further event, and is logged', async (t) => {
  const broken = () => {
    throw new Error('cannot encode');
  };
  const feeds = { a: testFeed(), b: testFeed({ breaksOffEarly: true }), c: testFeed({ encode: broken }) };
  const { url, app, log } = await setUp(t, feeds);
  for (const [name, feed] of Object.entries(feeds)) {
    const reading = await open(`${url}/${name}`);
    await until(() => reading.events.length === 1, 'the opening event');
    feed.send(name === 'c' ? item('x') : new Error(`${name} has failed`));
    t.equal(await reading.ended, name !== 'b');
    t.same(dataOf(reading), ['opening']);
    await until(() => app.responses.open === 0, 'the response is closed');
    t.ok(feed.state.closed > 0, 'the feed is closed');
  }
  for (const text of ['reading a stream failed', 'a has failed', 'b has failed', 'cannot encode']) t.match(log(), text);
});

t.test('a response that breaks off leaves its client half a second for the last item', async (t) => {
  const a = testFeed({ breaksOff: () => true });
  const b = testFeed({ breaksOff: () => true });
  const { url, app, clock, value } = await setUp(t, { a, b });
  const readings = [await open(`${url}/a`), await open(`${url}/b`)];
  const timers = clock.pending;
  for (const feed of [a, b]) feed.send(item('error', true));
  for (const reading of readings) await until(() => reading.events.length === 2, 'the last item');
  t.equal(clock.pending, timers + 2);
  readings[1]?.cut();
  await until(() => app.responses.open === 1, 'a client has left');
  t.equal(clock.pending, timers + 1, 'its timer is gone');
  app.responses.disconnectResumable();
  clock.advance(499);
  t.equal(app.responses.open, 1);
  clock.advance(1);
  t.equal(await readings[0]?.ended, false, 'the response is cut');
  await until(() => app.responses.open === 0, 'all are closed');
  t.equal(await value('requests_total', { status: '200' }), 2, 'both were answered');
  t.equal(await value('responses_aborted_total'), 0);
});

t.test('a response that breaks off before its first event ends at once', async (t) => {
  const silent = testFeed({ breaksOff: () => true });
  const { url, clock } = await setUp(t, { silent });
  const reading = await open(`${url}/silent`);
  const timers = clock.pending;
  silent.send({ events: [], last: true });
  t.equal(await reading.ended, false);
  t.equal(clock.pending, timers, 'without a timer');
});

/** Sends requests for all feeds on one connection, and waits until all responses have begun. */
async function pipeline(t: Test, feeds: Record<string, TestFeed>) {
  const service = await setUp(t, feeds);
  const socket = connect(Number(new URL(service.url).port), '127.0.0.1').on('error', () => {});
  t.teardown(() => socket.destroy());
  const names = Object.keys(feeds);
  socket.write(names.map((name) => `GET /${name} HTTP/1.1\r\nHost: x\r\n\r\n`).join(''));
  await until(() => service.app.responses.open === names.length, 'all responses have begun');
  return { ...service, socket };
}

t.test('a pipelined response whose connection closes is closed as well', async (t) => {
  const [a, b] = [testFeed(), testFeed()];
  const { app, value, socket } = await pipeline(t, { a, b });
  socket.destroy();
  await until(() => app.responses.open === 0, 'both are closed');
  for (const { state } of [a, b]) t.ok(state.closed > 0, 'the feed is closed');
  t.equal(await value('responses_open'), 0);
});

t.test('a pipelined response that is cut before it has the connection ends it behind those before it', async (t) => {
  const [a, b] = [testFeed(), testFeed({ canResumeElsewhere: () => true, breaksOffEarly: true })];
  const { app, value, socket } = await pipeline(t, { a, b });
  app.responses.disconnectResumable();
  a.send(item('last of a', true));
  const received = await readAll(socket);
  t.match(received, 'data: last of a\n\n\r\n0\r\n\r\n', 'the first response is whole');
  await until(() => app.responses.open === 0, 'both are closed');
  t.ok(b.state.closed > 0);
  t.equal(await value('responses_open'), 0);
});

t.test('a long text is one event, whatever happens while it is written', async (t) => {
  const text = '🚀a\u2028"'.repeat(1_000_000);
  const isResumable = { canResumeElsewhere: () => true, canReconnect: () => true };
  const a = testFeed(isResumable);
  const { url, app, clock } = await setUp(t, { a }, { maxConnectionMs: 10_000 });
  const reading = await open(`${url}/a`);
  await until(() => reading.events.length === 1, 'the opening event');
  reading.response.pause();
  a.send({ events: [{ id: '7', before: '{"text":', text, after: ',"n":1}' }], last: true });
  await sleep(20);
  clock.advance(20_000);
  app.responses.disconnectResumable();
  t.equal(app.responses.open, 1, 'the response is still written');
  reading.response.resume();
  t.equal(await reading.ended, true);
  t.equal(reading.events.length, 2);
  t.same(reading.comments, []);
  t.equal(reading.events[1]?.id, '7');
  t.ok(reading.events[1]?.json.text === text && reading.events[1]?.json.n === 1, 'the text is whole');
});

t.test('the time between two items is observed while the client keeps up', async (t) => {
  const a = testFeed();
  const { url, clock, value } = await setUp(t, { a });
  const reading = await open(`${url}/a`);
  const sendAt = async (ms: number, next: Item) => {
    clock.advance(ms);
    const { length } = reading.events;
    a.send(next);
    await until(() => reading.events.length > length, 'an item');
  };
  await sendAt(1_000, item('1'));
  t.equal(await value('inter_event_seconds_count'), 0, 'the first item follows none');
  await sendAt(300, item('2'));
  await sendAt(200, item('3'));
  t.equal(await value('inter_event_seconds_count'), 2);
  t.equal(await value('inter_event_seconds_sum'), 0.5);
  await sendAt(100, item(LONG));
  t.equal(await value('inter_event_seconds_count'), 3);
  await sendAt(5_000, item('after'));
  t.equal(await value('inter_event_seconds_count'), 3, 'the client was behind');
  await sendAt(50, item('next'));
  t.equal(await value('inter_event_seconds_count'), 4);
  reading.cut();
});

t.test('no timer is left when the service closes', async (t) => {
  const { app, clock } = await setUp(t, {}, { maxConnectionMs: 10_000 });
  t.ok(clock.pending > 0);
  await app.close();
  t.equal(clock.pending, 0);
});

t.test('an injected request ends, also one whose response breaks off', async (t) => {
  const a = testFeed({ breaksOff: () => true });
  const { app, clock } = await setUp(t, { a });
  const reply = app.inject('/a');
  a.send(item('error', true));
  await until(() => app.responses.open === 1 && a.state.asked === 1, 'the response has begun');
  for (let i = 0; i < 5; i++) await sleep(1);
  clock.advance(500);
  t.equal((await reply).body, 'data: opening\n\ndata: error\n\n');
});
