import { createServer } from 'node:https';
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import { ConfigError, loadConfig } from '../../plugins/config/load.ts';
import type { ProviderError } from '../../providers/errors.ts';
import { createOpenAICompatible } from '../../providers/openai-compatible.ts';
import { chooseProxy } from '../../providers/proxy.ts';
import { CERT, KEY } from '../certificate.ts';
import { connectProxy } from '../connect-proxy.ts';
import { deferred, serve, until, writeConfig } from '../helper.ts';
import { runServer } from '../process.ts';
import { deltaText, open, readAll } from '../sse-client.ts';
import { completeAnswer, DONE, STOP, sse, startUpstream, text } from '../upstream.ts';
import { collect } from './collect.ts';
import { OPTIONS } from './options.ts';

/** Tests provider calls through an HTTP proxy. */

const QUESTION = { model: 'm', messages: [{ role: 'user' as const, content: 'q' }] };
const signal = () => new AbortController().signal;

function providerAt(t: Test, baseUrl: string, options: object) {
  const provider = createOpenAICompatible({ ...OPTIONS, baseUrl, ...options });
  t.teardown(() => provider.close());
  return provider;
}

t.test('an answer streams through the proxy, which resolves the name, and the tunnel is used again', async (t) => {
  const proxy = await connectProxy(t);
  const rest = deferred();
  const upstream = await startUpstream(t, async ({ response }) => {
    sse(response).write(text('first '));
    await rest.promise;
    response.end(text('second') + STOP + DONE);
  });
  const port = new URL(upstream.url).port;
  const yaml = `providers: { p: { type: vllm, baseUrl: "http://model.invalid:${port}/v1", models: [m] } }`;
  const env = { CONFIG_FILE: writeConfig(t, yaml), HTTP_PROXY: proxy.url, HTTPS_PROXY: 'http://127.0.0.1:1' };
  const { url } = await serve(t, { env });
  const { events, ended } = await open(`${url}/ask/stream?question=q&model=p/m`);
  await until(
    () => events.some(({ json }) => json?.type === 'delta'),
    'the first text arrives before the rest is sent',
  );
  rest.resolve();
  await ended;
  t.equal(events.map(({ json }) => (json as { content?: string }).content ?? '').join(''), 'first second');
  await open(`${url}/ask/stream?question=again&model=p/m`).then((second) => second.ended);
  t.same(proxy.destinations, [`model.invalid:${port}`]);
  t.equal(upstream.calls.length, 2);
  t.equal(upstream.calls[0]?.request.headers['proxy-authorization'], undefined);
});

t.test('a provider with TLS is reached through the proxy, and no log line has the password', async (t) => {
  const proxy = await connectProxy(t);
  const server = createServer({ key: KEY, cert: CERT }, (_, response) => {
    sse(response).end(text('secure') + STOP + DONE);
  }).listen(0, '127.0.0.1');
  await until(() => server.listening, 'the provider listens');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  const folder = t.testdir({
    'ca.pem': CERT,
    'sluice.yaml': `providers: { p: { type: vllm, baseUrl: "https://sluice-test:${port}/v1", models: [m] } }`,
  });
  const service = await runServer(t, {
    CONFIG_FILE: `${folder}/sluice.yaml`,
    NODE_EXTRA_CA_CERTS: `${folder}/ca.pem`,
    HTTPS_PROXY: `http://user:p%40ss%2Fword@127.0.0.1:${proxy.port}`,
    LOG_LEVEL: 'trace',
  });
  for (const question of ['one', 'two']) {
    const events = await readAll(`${service.url}/ask/stream?question=${question}&model=p/m`);
    t.match(deltaText(events), 'secure');
  }
  t.same(proxy.destinations, [`sluice-test:${port}`], 'the second question uses the first tunnel');
  t.same(proxy.credentials, ['user:p@ss/word']);
  proxy.refuse = (client) => client.end('HTTP/1.1 502 Bad Gateway\r\n\r\n');
  proxy.cut();
  t.match(
    JSON.stringify((await readAll(`${service.url}/ask/stream?question=three&model=p/m`)).events),
    /upstream_unreachable/,
  );
  t.notMatch(JSON.stringify(service.lines), /p@ss|p%40ss|cEBzcy/, 'the password is in no line');
  t.match(
    service.lines.find(({ msg }) => msg === 'stream ended'),
    { reason: undefined },
  );
  t.ok(
    service.lines.some(({ reason }) => reason === 'proxy'),
    'the line names the proxy',
  );
});

t.test('reads of a tunnel are coalesced', async (t) => {
  const proxy = await connectProxy(t);
  const scheduled: (() => void)[] = [];
  const readIntervals = {
    now: () => 0,
    intervalMs: () => 1_000,
    afterInterval: (fn: () => void) => scheduled.push(fn),
  };
  const LETTERS = [...'abcdef'];
  const steps = LETTERS.map(deferred);
  const upstream = await startUpstream(t, async ({ response }) => {
    sse(response);
    for (const [i, letter] of LETTERS.entries()) {
      response.write(text(letter));
      await steps[i]?.promise;
    }
    response.end(text('.') + STOP + DONE);
  });
  const provider = providerAt(t, `${upstream.url}/v1`, { proxyUrl: proxy.url, readIntervals });
  let received = '';
  const answer = (async () => {
    for await (const part of provider.stream(QUESTION, signal())) if (part.type === 'text') received += part.text;
  })();
  // The first reads of an answer do not wait for an interval.
  for (let i = 0; scheduled.length === 0 && i < LETTERS.length; i++) {
    await until(() => received.length === i + 1, 'a part arrives');
    if (scheduled.length === 0) steps[i]?.resolve();
  }
  t.equal(scheduled.length, 1, 'the tunnel pauses after a read within the interval');
  for (const { resolve } of steps) resolve();
  scheduled[0]?.();
  await answer;
  t.equal(received, 'abcdef.');
});

t.test('every failure of the proxy is upstream_unreachable with reason proxy', async (t) => {
  const upstream = await startUpstream(t, ({ response }) => void response.end());
  const answers: [string, boolean, (client: Socket) => void][] = [
    ['407', false, (client) => client.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n')],
    ['403', false, (client) => client.end('HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno!')],
    ['302', false, (client) => client.end('HTTP/1.1 302 Found\r\nlocation: http://login.example\r\n\r\n')],
    ['429', true, (client) => client.end('HTTP/1.1 429 Too Many Requests\r\n\r\n')],
    ['502', true, (client) => client.end('HTTP/1.1 502 Bad Gateway\r\n\r\n')],
    ['no answer', true, (client) => client.destroy()],
    ['not HTTP', true, (client) => client.end('SSH-2.0-OpenSSH\r\n')],
    ['silence', true, () => {}],
  ];
  for (const [name, retryable, refuse] of answers) {
    const proxy = await connectProxy(t);
    proxy.refuse = refuse;
    const provider = providerAt(t, `${upstream.url}/v1`, { proxyUrl: proxy.url, connectTimeoutMs: 300 });
    const { error } = await collect(provider.stream(QUESTION, signal()));
    t.match(error, { code: 'upstream_unreachable', reason: 'proxy', retryable }, name);
  }
  const closed = createTcpServer().listen(0, '127.0.0.1');
  await until(() => closed.listening, 'the port is known');
  const { port } = closed.address() as AddressInfo;
  await new Promise((resolve) => closed.close(resolve));
  for (const proxyUrl of [`http://127.0.0.1:${port}`, 'http://proxy.invalid:3128', `https://127.0.0.1:${port}`]) {
    const { error } = await collect(providerAt(t, `${upstream.url}/v1`, { proxyUrl }).stream(QUESTION, signal()));
    t.match(error, { code: 'upstream_unreachable', reason: 'proxy', retryable: true }, proxyUrl);
  }
  t.equal(upstream.calls.length, 0, 'no call goes around the proxy');
});

t.test('a tunnel that closes during its first call is not a stale connection', async (t) => {
  const proxy = await connectProxy(t);
  const upstream = await startUpstream(t, () => proxy.cut());
  const provider = providerAt(t, `${upstream.url}/v1`, { proxyUrl: proxy.url });
  const { error } = await collect(provider.stream(QUESTION, signal()));
  t.equal((error as ProviderError).reason, 'connect');
});

t.test('close ends a request for a tunnel', async (t) => {
  const proxy = await connectProxy(t);
  proxy.refuse = () => {};
  const provider = providerAt(t, 'http://model.invalid/v1', { proxyUrl: proxy.url, connectTimeoutMs: 60_000 });
  const answer = collect(provider.stream(QUESTION, signal()));
  await until(() => proxy.destinations.length === 1, 'a tunnel is requested');
  await provider.close();
  t.ok((await answer).error);
  await until(() => proxy.connections() === 0, 'the connection to the proxy is closed');
});

t.test('the proxy follows from the address, the section and the provider', (t) => {
  const both = { https: 'http://s:1', http: 'http://p:1' };
  const cases: [string, string[], string | undefined][] = [
    ['https://api.example/v1', [], 'http://s:1'],
    ['http://api.example/v1', [], 'http://p:1'],
    ['http://127.0.0.1:8000', [], 'http://p:1'],
    ['https://api.example', ['*'], undefined],
    ['https://api.example', ['api.example'], undefined],
    ['https://API.Example', ['api.EXAMPLE'], undefined],
    ['https://api.example', ['example'], undefined],
    ['https://api.example', ['.example'], undefined],
    ['https://api.example', ['*.example'], undefined],
    ['https://api.example', ['.'], 'http://s:1'],
    ['https://myapi.example', ['api.example'], 'http://s:1'],
    ['https://api.example', ['api.example:443'], undefined],
    ['https://api.example', ['api.example:8443'], 'http://s:1'],
    ['http://api.example:8080', ['api.example:8080'], undefined],
    ['http://api.example', ['api.example:80'], undefined],
    ['http://10.1.2.3', ['10.0.0.0/8'], undefined],
    ['http://11.1.2.3', ['10.0.0.0/8'], 'http://p:1'],
    ['http://10.1.2.3', ['10.0.0.0/99'], 'http://p:1'],
    ['http://10.1.2.3', ['10.1.2.3'], undefined],
    ['http://10.1.2.3', ['.2.3'], 'http://p:1'],
    ['http://[::1]:9', ['::1'], undefined],
    ['http://[::1]:9', ['[::1]:9'], undefined],
    ['http://[::1]:9', ['[::1]:8'], 'http://p:1'],
    ['http://[fd00::5]', ['fd00::/8'], undefined],
    ['http://[fd00::5]', ['10.0.0.0/8'], 'http://p:1'],
  ];
  for (const [baseUrl, except, expected] of cases) {
    t.equal(chooseProxy(baseUrl, undefined, { ...both, except }), expected, `${baseUrl} except ${except}`);
  }
  t.equal(chooseProxy('http://a', undefined, { https: 'http://s:1' }), undefined, 'no proxy for http');
  t.equal(chooseProxy('https://a', undefined, { http: 'http://p:1' }), undefined, 'no proxy for https');
  t.equal(chooseProxy('http://a', false, both), undefined, 'the provider has none');
  t.equal(
    chooseProxy('http://a', 'http://own:1', { ...both, except: ['*'] }),
    'http://own:1',
    'the provider has its own',
  );
  t.end();
});

t.test('the standard variables set the section, in either case', (t) => {
  const proxyOf = (env: Record<string, string>) => loadConfig(env).proxy;
  t.equal(proxyOf({}), undefined);
  t.same(proxyOf({ HTTPS_PROXY: ' http://u:p@h:1/ ', NO_PROXY: 'a, .b c:8,' }), {
    https: 'http://u:p@h:1/',
    except: ['a', '.b', 'c:8'],
  });
  t.match(proxyOf({ HTTP_PROXY: 'http://a:1', http_proxy: 'b:2', https_proxy: 'https://c', no_proxy: '*' }), {
    http: 'http://b:2',
    https: 'https://c',
    except: ['*'],
  });
  const wrong = [
    'socks5://u:SECRET@h',
    'http://u:SECRET/@h',
    'http://u:SECRET%zz@h',
    'http://h:SECRET',
    'http://SECRET h',
  ];
  for (const value of wrong) {
    for (const name of ['HTTPS_PROXY', 'HTTP_PROXY', 'https_proxy', 'http_proxy']) {
      const problems = problemsOf({ [name]: value });
      t.match(problems, [new RegExp(`^${name}: `, 'i')], `${name}=${value}`);
      t.notMatch(problems.join(), /SECRET/);
    }
    const yaml = `providers: { p: { type: demo, models: [m], proxy: "${value}" } }`;
    const problems = problemsOf({ CONFIG_FILE: writeConfig(t, yaml) });
    t.match(problems, [/^providers\.p\.proxy: /], value);
    t.notMatch(problems.join(), /SECRET/);
  }
  t.end();
});

function problemsOf(env: Record<string, string>): readonly string[] {
  try {
    loadConfig(env);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
}

t.test('the setting of a provider overrides the variables', async (t) => {
  const proxy = await connectProxy(t);
  const upstream = await startUpstream(t, completeAnswer('x'));
  const entry = (name: string, own: string) =>
    `  ${name}: { type: vllm, baseUrl: "${upstream.url}/v1", models: [m]${own} }\n`;
  const yaml = `providers:\n${entry('direct', ', proxy: false')}${entry('own', `, proxy: "${proxy.url}"`)}`;
  const env = { CONFIG_FILE: writeConfig(t, yaml), HTTP_PROXY: 'http://127.0.0.1:1', NO_PROXY: '*' };
  const { url } = await serve(t, { env });
  for (const [name, tunnels] of [
    ['direct', 0],
    ['own', 1],
  ] as const) {
    t.equal(deltaText(await readAll(`${url}/ask/stream?question=${name}&model=${name}/m`)), 'x', name);
    t.equal(proxy.destinations.length, tunnels, name);
  }
});
