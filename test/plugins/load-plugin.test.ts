import { Agent, type IncomingMessage, request as send } from 'node:http';
import { performance } from 'node:perf_hooks';
import { text as readAll } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import Fastify, { type FastifyInstance } from 'fastify';
import t, { type Test } from 'tap';
import clockPlugin from '../../plugins/clock.ts';
import load, { type LoadOptions } from '../../plugins/load/index.ts';
import metrics from '../../plugins/metrics/index.ts';
import { until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';

/** Limits that only a blocked event loop exceeds: the delay of this process is far below. */
const ONLY_BLOCKED: LoadOptions = { minIntervalMs: 10, maxIntervalMs: 80, maxEventLoopDelayMs: 10_000 };

/**
 * Starts the plugin without the rest of the service, on a clock that the test advances. `core.busy` is the share of
 * time in which its event loop is busy, with as much CPU time. Each request names its owner in a header.
 */
async function bareLoad(t: Test, options: Partial<LoadOptions> = {}) {
  const clock = manualClock();
  const core = { busy: 0 };
  const { eventLoopUtilization } = performance;
  let active = 0;
  let countedAt = 0;
  const count = () => {
    active += core.busy * (clock.now() - countedAt);
    countedAt = clock.now();
  };
  performance.eventLoopUtilization = (now, before) => {
    count();
    if (!now || !before) return { active, idle: countedAt - active, utilization: 0 };
    const [busyMs, idleMs] = [now.active - before.active, now.idle - before.idle];
    return { active: busyMs, idle: idleMs, utilization: busyMs / (busyMs + idleMs) };
  };
  const cpuUsage = () => {
    count();
    return { user: 1_000 * active, system: 0 };
  };
  t.teardown(() => {
    performance.eventLoopUtilization = eventLoopUtilization;
  });
  const app = Fastify({ bodyLimit: 50_000_000 });
  await app.register(clockPlugin, { clock });
  await app.register(metrics, { hasRedis: false });
  app.addHook('onRequest', async (request) => {
    const owner = request.headers['x-owner'];
    if (owner) Object.assign(request, { identity: { owner } });
  });
  await app.register(load, { ...ONLY_BLOCKED, cpuUsage, ...options });
  app.post('/', async () => 'ok');
  app.get('/long', async () => 'x'.repeat(4_000_000));
  app.get('/never', () => new Promise(() => {}));
  t.teardown(() => app.close());
  /** Lets the event loop be blocked for so many seconds; it is asked for its load once a second. */
  const block = (seconds: number, ask: () => unknown = () => app.load.isOverloaded()) => {
    for (let i = 0; i < seconds; i++) {
      clock.advance(1_000);
      ask();
    }
  };
  /** Reads upstreams for so many seconds. Their connections wait for the interval. */
  const read = (seconds: number) => {
    for (let i = 0; i < seconds * 10; i++) {
      clock.advance(100);
      app.load.readIntervalMs();
      app.load.afterInterval(() => {});
    }
  };
  return { app, clock, core, block, read };
}

/** Connects to a service, over one connection. */
async function connect(t: Test, app: FastifyInstance) {
  const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }));
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  t.teardown(() => agent.destroy());
  return async (owner: string | undefined, path: string, body?: string) => {
    const headers = { 'content-type': 'text/plain', ...(owner && { 'x-owner': owner }) };
    const request = send({ port, agent, path, method: body === undefined ? 'GET' : 'POST', headers });
    request.end(body);
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      request.on('response', resolve).on('error', reject);
    });
    await readAll(response);
  };
}

t.test(
  'an event loop that is blocked for three seconds on end is overloaded, and no longer when it runs',
  async (t) => {
    const { app, clock, block } = await bareLoad(t);
    block(3);
    t.notOk(app.load.isOverloaded(), 'a shorter delay is no overload');
    block(1);
    t.ok(app.load.isOverloaded());
    const runs = async () => {
      await sleep(50);
      clock.advance(1_000);
      return !app.load.isOverloaded();
    };
    await until(runs, 'the event loop runs again');
  },
);

t.test('reads of upstreams measure the delay, so the first question after them is refused', async (t) => {
  const { app, block } = await bareLoad(t);
  block(5, () => app.load.readIntervalMs());
  t.ok(app.load.isOverloaded());
});

t.test('a delay limit of 0 refuses nothing', async (t) => {
  const { app, block } = await bareLoad(t, { maxEventLoopDelayMs: 0 });
  block(10);
  t.notOk(app.load.isOverloaded());
});

t.test('a full core is overloaded, though its event loop is not late', async (t) => {
  const { app, core, read } = await bareLoad(t, { maxEventLoopDelayMs: Number.POSITIVE_INFINITY });
  core.busy = 1;
  read(8);
  t.equal(app.load.readIntervalMs(), 128, '1.6 times the interval of a full core');
  t.ok(app.load.isOverloaded());
  t.equal(await metricValue(app, 'sluice_upstream_read_interval_seconds'), 0.128);
  core.busy = 0.1;
  read(2);
  t.notOk(app.load.isOverloaded(), 'the core has time to spare');
  t.equal(app.load.readIntervalMs(), 10);
});

t.test('a half-busy core is read in intervals of 50 ms, one that is busy by a tenth in the shortest', async (t) => {
  const { app, core, read } = await bareLoad(t, { maxEventLoopDelayMs: Number.POSITIVE_INFINITY });
  core.busy = 0.5;
  read(8);
  t.equal(app.load.readIntervalMs(), 50);
  t.notOk(app.load.isOverloaded());
  core.busy = 0.1;
  read(8);
  t.equal(app.load.readIntervalMs(), 10);
});

t.test('an idle core is not full, also if its longest interval is below the shortest', async (t) => {
  const limits = { minIntervalMs: 40, maxIntervalMs: 10, maxEventLoopDelayMs: Number.POSITIVE_INFINITY };
  const { app, read } = await bareLoad(t, limits);
  read(8);
  t.notOk(app.load.isOverloaded());
  t.equal(app.load.readIntervalMs(), 40);
});

t.test('afterInterval waits for one read interval', async (t) => {
  const { app, clock } = await bareLoad(t);
  let calls = 0;
  app.load.afterInterval(() => {
    calls += 1;
  });
  clock.advance(9);
  t.equal(calls, 0);
  clock.advance(1);
  t.equal(calls, 1);
});

t.test('bytes that an owner sends and gets are its work, and those of others on the connection are not', async (t) => {
  for (const [path, body, work] of [
    ['/', 'x'.repeat(10_000_000), 'sent'],
    ['/long', undefined, 'got'],
  ] as const) {
    const { app, block } = await bareLoad(t);
    const request = await connect(t, app);
    await request('noisy', path, body);
    // A gateway sends the requests of many owners over one connection.
    await request('quiet', '/', 'x'.repeat(100_000));
    block(5);
    t.ok(app.load.isOverloaded(), 'the process is overloaded');
    t.ok(app.load.isOverloaded('noisy'), `the bytes that an owner ${work} are its work`);
    t.notOk(app.load.isOverloaded('quiet'));
    t.notOk(app.load.isOverloaded('new'));
  }
});

t.test('many small requests are work', async (t) => {
  const { app, block } = await bareLoad(t);
  for (let i = 0; i < 200; i++) {
    await app.inject({ method: 'POST', url: '/', headers: { 'x-owner': 'noisy' } });
  }
  block(5);
  t.ok(app.load.isOverloaded('noisy'));
  t.notOk(app.load.isOverloaded('quiet'));
});

t.test('requests that nobody is identified for are not the work of an owner', async (t) => {
  const { app, block } = await bareLoad(t);
  const request = await connect(t, app);
  await request(undefined, '/', 'x'.repeat(10_000_000));
  block(5);
  t.notOk(app.load.isOverloaded('quiet'));
});

t.test('a request that its client cuts is work as well', async (t) => {
  const { app, block } = await bareLoad(t);
  const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }));
  let arrived = 0;
  let closed = 0;
  app.server.on('request', (_, response) => {
    arrived += 1;
    response.on('close', () => {
      closed += 1;
    });
  });
  for (let i = 1; i <= 60; i++) {
    const request = send({ port, path: '/never', headers: { 'x-owner': 'noisy' }, agent: false });
    request.on('error', () => {});
    request.end();
    await until(() => arrived === i, 'the request has arrived');
    request.destroy();
    await until(() => closed === i, 'the request is cut');
  }
  block(5);
  t.ok(app.load.isOverloaded('noisy'));
  t.notOk(app.load.isOverloaded('quiet'));
});
