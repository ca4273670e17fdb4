import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo, LookupFunction } from 'node:net';
import t, { type Test } from 'tap';
import { createAllowedLookup } from '../../providers/addresses.ts';
import type { ProviderError } from '../../providers/errors.ts';
import { createOpenAICompatible } from '../../providers/openai-compatible.ts';
import { MAX_CONNECTION_AGE_MS } from '../../providers/wire/connections.ts';
import { until } from '../helper.ts';
import { DONE, STOP, sse, text } from '../upstream.ts';
import { collect } from './collect.ts';
import { OPTIONS } from './options.ts';

/** Tests to which address a provider is connected, and for how long. */

const QUESTION = { model: 'm', messages: [{ role: 'user' as const, content: 'q' }] };

/** Starts a provider whose answers name it. It leaves its first answer open, for the test to end. */
async function startProvider(t: Test, address: string, port: number) {
  const open: ServerResponse[] = [];
  let connections = 0;
  const server = createServer((_, response) => {
    sse(response).write(text(address));
    if (open.length === 0) open.push(response);
    else response.end(STOP + DONE);
  });
  server.on('connection', (socket) => {
    connections += 1;
    socket.on('error', () => {}).on('close', () => (connections -= 1));
  });
  server.listen(port, address);
  await once(server, 'listening');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { open, connections: () => connections, port: (server.address() as AddressInfo).port };
}

const lookupOf =
  (addresses: () => readonly string[]): LookupFunction =>
  (_, __, callback) =>
    callback(
      null,
      addresses().map((address) => ({ address, family: address.includes(':') ? 6 : 4 })),
    );

t.test('a busy provider moves to its new address, and running answers are not cut', async (t) => {
  let time = 0;
  let address = '127.0.0.1';
  const retired = await startProvider(t, '127.0.0.1', 0);
  const current = await startProvider(t, '127.0.0.2', retired.port);
  current.open.push({} as ServerResponse); // All of its answers end.
  const provider = createOpenAICompatible({
    ...OPTIONS,
    baseUrl: `http://provider.test:${retired.port}/v1`,
    lookup: lookupOf(() => [address]),
    connections: 2, // The running answer has one, so that all other calls share the second.
    readIntervals: { ...OPTIONS.readIntervals, now: () => time },
  });
  t.teardown(() => provider.close());
  const ask = () => collect(provider.stream(QUESTION, new AbortController().signal));

  const running = ask();
  await until(() => retired.open.length === 1, 'an answer is running');
  t.equal((await ask()).text, '127.0.0.1');
  address = '127.0.0.2';
  time = MAX_CONNECTION_AGE_MS - 1;
  t.equal((await ask()).text, '127.0.0.1', 'the connection is kept');
  time = MAX_CONNECTION_AGE_MS;
  t.equal((await ask()).text, '127.0.0.2', 'no new call on an old connection');
  await until(() => retired.connections() === 1, 'only the connection of the running answer is left');
  retired.open[0]?.end(text(' to its end') + STOP + DONE);
  t.match(await running, { text: '127.0.0.1 to its end', error: undefined });
  await until(() => retired.connections() === 0, 'the last connection is closed');
  t.equal((await ask()).text, '127.0.0.2');
  time += MAX_CONNECTION_AGE_MS;
  t.equal((await ask()).text, '127.0.0.2', 'the next change');
});

t.test('close cuts the answers of retired connections, too', async (t) => {
  let time = 0;
  const server = await startProvider(t, '127.0.0.1', 0);
  const provider = createOpenAICompatible({
    ...OPTIONS,
    baseUrl: `http://127.0.0.1:${server.port}/v1`,
    readIntervals: { ...OPTIONS.readIntervals, now: () => time },
  });
  const ask = () => collect(provider.stream(QUESTION, new AbortController().signal));
  const running = ask();
  await until(() => server.open.length === 1, 'an answer is running');
  time = MAX_CONNECTION_AGE_MS;
  await ask();
  await provider.close();
  t.ok((await running).error, 'the answer is cut');
  await until(() => server.connections() === 0, 'no connection is left');
});

t.test('forbidden addresses of a name are left out; the lookup fails if no other is left', async (t) => {
  const server = await startProvider(t, '127.0.0.1', 0);
  server.open.push({} as ServerResponse);
  const forbidden = { code: 'upstream_unreachable', reason: 'forbidden_address', retryable: false };
  const cases: [string[], object | undefined][] = [
    [['127.0.0.1'], undefined],
    [['fe80::1', '127.0.0.1'], undefined],
    [['127.0.0.1', 'fe80::1'], undefined],
    [['169.254.169.254', 'fe80::1', '127.0.0.1'], undefined],
    [['fe80::1'], forbidden],
    [['169.254.169.254', 'fd00:ec2::254'], forbidden],
    [['::ffff:169.254.169.254'], forbidden],
  ];
  for (const [addresses, expected] of cases) {
    const provider = createOpenAICompatible({
      ...OPTIONS,
      baseUrl: `http://provider.test:${server.port}/v1`,
      lookup: lookupOf(() => addresses),
    });
    t.teardown(() => provider.close());
    const { text: answer, error } = await collect(provider.stream(QUESTION, new AbortController().signal));
    if (expected) t.match(error, expected, `${addresses}`);
    else t.match({ answer, error }, { answer: '127.0.0.1', error: undefined }, `${addresses}`);
  }
  const lookup = lookupOf(() => ['fe80::1']);
  const allowed = createOpenAICompatible({
    ...OPTIONS,
    baseUrl: 'http://provider.test:9/v1',
    lookup,
    allowPrivate: true,
  });
  t.teardown(() => allowed.close());
  const { error } = await collect(allowed.stream(QUESTION, new AbortController().signal));
  t.not((error as ProviderError).reason, 'forbidden_address', 'allowPrivate tries the address');
  const resolve = createAllowedLookup(lookupOf(() => ['fe80::1', '127.0.0.1']));
  resolve('provider.test', { all: false }, (...result) => t.same(result, [null, '127.0.0.1', 4], 'a single address'));
  const failing = createAllowedLookup((_, __, callback) => callback(new Error('no DNS'), ''));
  failing('provider.test', { all: true }, (error) => t.match(error, { message: 'no DNS' }, 'an error of DNS'));
});

t.test('a name that does not exist keeps the reason dns', async (t) => {
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl: 'http://provider.invalid/v1' });
  t.teardown(() => provider.close());
  const { error } = await collect(provider.stream(QUESTION, new AbortController().signal));
  t.match(error, { code: 'upstream_unreachable', reason: 'dns' });
});
