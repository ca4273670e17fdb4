import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { countsAgainstTarget, nextStep } from '../../plugins/llm/next-step.ts';
import { OverloadedError, ProviderError } from '../../providers/errors.ts';
import { createUpstream, type Upstream } from '../../providers/wire/http.ts';
import { networkError } from '../../providers/wire/network-error.ts';
import { createSocketBudget, type SocketBudget } from '../../providers/wire/socket-budget.ts';
import { until } from '../helper.ts';

/** A shortage in this process is not a fault of the provider. */

/** A question for which everything could be tried. */
const ANOTHER_WAY = {
  tries: 1,
  hasBegun: false,
  canContinue: true,
  hasNext: true,
  isClosed: true,
  cooldownMs: 0,
  remainingMs: 60_000,
  random: 0,
};
const systemError = (code: string, more: object = {}) => Object.assign(new Error(code), { code, ...more });

t.test('a shortage of this process is `overloaded`, and every other error is of the provider', async (t) => {
  const shortages = [
    ...['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM'].map((code) => systemError(code)),
    systemError('EADDRNOTAVAIL', { address: '10.0.0.1' }),
    systemError('ECONNREFUSED', { errors: [systemError('ECONNREFUSED'), systemError('EMFILE')] }),
  ];
  for (const phase of ['before_headers', 'in_body'] as const) {
    for (const error of shortages) {
      const fault = networkError(error, phase);
      t.ok(fault instanceof OverloadedError, error.message);
      t.equal(networkError(fault, phase), fault, 'an error is converted once');
      t.same(nextStep(fault, ANOTHER_WAY), { kind: 'end' }, 'is not retried, and calls no other target');
      t.notOk(countsAgainstTarget(fault), 'opens no circuit breaker');
    }
  }
  const others = [
    systemError('ECONNREFUSED', { errors: [systemError('ECONNREFUSED')] }),
    systemError('EADDRNOTAVAIL', { address: '::1' }), // This host has no IPv6.
    systemError('EADDRNOTAVAIL'),
    systemError('ENOTFOUND'),
    systemError('EAI_AGAIN'),
    systemError('EACCES'),
  ];
  for (const error of others) t.ok(networkError(error, 'before_headers') instanceof ProviderError, error.code);
});

/** Starts a provider whose answers wait for `release`, and the pool of its connections. */
async function startProvider(t: Test, sockets: SocketBudget) {
  const held: (() => void)[] = [];
  let open = 0;
  const server = createServer((request, response) => {
    request.resume();
    response.writeHead(200, { 'content-type': 'application/json' }).write('{');
    held.push(() => response.end('}'));
  });
  server.on('connection', (socket) => {
    open += 1;
    socket.on('close', () => (open -= 1));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const upstream: Upstream = createUpstream(
    {
      baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      connections: 10,
      sockets,
      highWaterMark: 16_384,
      readIntervals: { now: () => 0, intervalMs: () => 0, afterInterval: (fn) => void setImmediate(fn) },
      connectTimeoutMs: 3_000,
      headersTimeoutMs: 30_000,
    },
    'application/json',
  );
  t.teardown(async () => {
    await upstream.close();
    server.closeAllConnections();
    server.close();
  });
  const call = async (signal = new AbortController().signal) => upstream.post('/', {}, {}, signal);
  /** Ends the calls that wait, and reads their bodies. */
  const finish = async (...bodies: Awaited<ReturnType<typeof call>>[]) => {
    for (const end of held.splice(0)) end();
    for (const body of bodies) await body.text();
  };
  return { call, finish, open: () => open };
}

t.test('sockets of all providers share one bound; idle ones make room, busy ones never', async (t) => {
  const sockets = createSocketBudget(2);
  const a = await startProvider(t, sockets);
  const b = await startProvider(t, sockets);

  const first = await a.call();
  const second = await a.call();
  const refused = await b.call().catch((error: unknown) => error);
  t.match(refused, { code: 'overloaded', reason: 'sockets', retryAfterMs: 1_000 }, 'both sockets are busy');
  await a.finish(first, second);

  const third = await b.call();
  await until(() => a.open() === 1, 'an idle connection of the other provider is closed');
  const fourth = await b.call();
  await until(() => a.open() === 0, 'and the other one');
  t.ok((await a.call().catch((error: unknown) => error)) instanceof OverloadedError);
  await b.finish(third, fourth);

  const fifth = await b.call();
  const sixth = await b.call();
  t.equal(b.open(), 2, 'both connections are used again');
  t.ok((await a.call().catch((error: unknown) => error)) instanceof OverloadedError, 'so that none of them is closed');
  await b.finish(fifth, sixth);
});

t.test('a socket that closes, for any reason, is free for others', async (t) => {
  const sockets = createSocketBudget(1);
  const a = await startProvider(t, sockets);
  const b = await startProvider(t, sockets);
  const controller = new AbortController();
  const body = await a.call(controller.signal);
  body.on('error', () => {});
  controller.abort();
  await until(() => a.open() === 0, 'the aborted call closes its connection');
  await until(
    () =>
      b.call().then(
        () => true,
        () => false,
      ),
    'the other provider is called',
  );

  const unreachable = createUpstream(
    {
      baseUrl: 'http://127.0.0.1:1',
      connections: 1,
      sockets: createSocketBudget(1),
      highWaterMark: 16_384,
      readIntervals: { now: () => 0, intervalMs: () => 0, afterInterval: (fn) => void setImmediate(fn) },
      connectTimeoutMs: 3_000,
      headersTimeoutMs: 30_000,
    },
    'application/json',
  );
  t.teardown(() => unreachable.close());
  for (let i = 0; i < 3; i++) {
    const error = await unreachable.post('/', {}, {}, new AbortController().signal).catch((error: unknown) => error);
    t.match(error, { code: 'upstream_unreachable', reason: 'connect' }, 'a failed connection releases its socket');
  }
});
