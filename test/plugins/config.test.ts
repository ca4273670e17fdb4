import t from 'tap';
import { ConfigError, loadConfig } from '../../plugins/config/load.ts';
import { writeConfig } from '../helper.ts';
import { runServer, spawnServer } from '../process.ts';

function problems(env: Record<string, string>): readonly string[] {
  try {
    loadConfig(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  return [];
}

t.test('without settings, the service runs the demo provider on loopback', async (t) => {
  t.match(loadConfig({}), {
    host: '127.0.0.1',
    port: 3000,
    basePath: '',
    trustProxy: false,
    defaultModel: 'demo/demo',
    providers: { demo: { type: 'demo' } },
    streams: { highWaterMark: 16_384, flushMs: 10, maxChars: 8_388_608, maxGenerations: 10_000 },
    deadlines: { connectMs: 3_000, headersMs: 30_000, firstTokenMs: 60_000, idleMs: 30_000, totalMs: 600_000 },
  });
});

t.test('environment variables set every kind of setting', async (t) => {
  const config = loadConfig({
    PORT: ' 8080 ',
    HOST: '::',
    BASE_PATH: '/ai',
    TRUST_PROXY: '2',
    LOG_LEVEL: 'debug',
    MAX_GENERATIONS: '5',
    STREAM_FLUSH_MS: '0',
    CORS_ORIGINS: 'https://a.example,https://b.example',
    BELLA_API_KEY: 'k1,k2',
    BELLA_BASE_URL: 'http://127.0.0.1:9/v1',
    DEEPSEEK_API_KEY: 'd',
    DEFAULT_MODEL: 'bella/gpt-4o',
    OPENAI_API_KEY: '',
    CONFIG_FILE: writeConfig(t, 'providers: { deepseek: { type: deepseek, models: "*" } }'),
  });
  t.match(config, {
    port: 8080,
    host: '::',
    basePath: '/ai',
    trustProxy: 2,
    logLevel: 'debug',
    corsOrigins: ['https://a.example', 'https://b.example'],
    streams: { maxGenerations: 5, flushMs: 0 },
    providers: {
      bella: { type: 'bella', apiKeys: ['k1', 'k2'], baseUrl: 'http://127.0.0.1:9/v1' },
      deepseek: { type: 'deepseek', apiKeys: ['d'], models: '*' },
    },
  });
  t.notOk(config.providers.openai, 'an empty variable counts as unset');
  t.same(loadConfig({ TRUST_PROXY: '10.0.0.0/8, ::1' }).trustProxy, ['10.0.0.0/8', '::1']);
});

t.test(
  'the file is YAML or JSON, uses variables of the environment, and is overridden by the environment',
  async (t) => {
    const dir = t.testdir({
      'c.yaml': `
port: 4000
providers:
  bella: { type: bella, baseUrl: "https://bella.example/v1", apiKeys: ["\${KEY}"], models: "*" }
  local: { type: openai-compatible, baseUrl: http://127.0.0.1:11434/v1 }
models:
  - name: default
    targets: [{ provider: bella, model: gpt-4o }, { provider: local, model: qwen3 }]
    firstTokenMs: 120000
streams: { highWaterMark: 32768 }
deadlines: { idleMs: 5000 }
`,
      'c.json': '{"port": 4001}',
    });
    const env = { CONFIG_FILE: `${dir}/c.yaml`, KEY: 'secret', PORT: '5000' };
    t.match(loadConfig(env), {
      port: 5000,
      providers: { bella: { apiKeys: ['secret'] }, local: { type: 'openai-compatible' } },
      models: [{ name: 'default', firstTokenMs: 120_000 }],
      streams: { highWaterMark: 32_768, flushMs: 10 },
      deadlines: { idleMs: 5_000, totalMs: 600_000 },
    });
    t.equal(loadConfig({ CONFIG_FILE: `${dir}/c.json` }).port, 4001);
  },
);

t.test('all invalid settings are reported together, by name and without values', async (t) => {
  const dir = t.testdir({
    'bad.yaml': `
nonsense: 1
providers: { x: { type: bela, apiKeys: ["SECRET with spaces"] }, y: { type: bella, baseUrl: "ftp://SECRET" } }
models: [{ name: "../SECRET", targets: [] }]
streams: { highWaterMark: 0, flushMs: "soon" }
`,
    'broken.yaml': 'providers: { x: [SECRET',
    'list.yaml': '- 1',
    'cross.yaml': `
providers: { a: { type: openai-compatible, models: "*" }, b: { type: bella } }
models: [{ name: m, targets: [{ provider: nobody, model: x }] }, { name: m, targets: [{ provider: a, model: x }] }]
`,
  });
  const invalidNames = (env: Record<string, string>) => problems(env).map((problem) => problem.split(':')[0]);
  t.same(
    new Set(invalidNames({ PORT: 'abc', LOG_LEVEL: 'loud', CONFIG_FILE: `${dir}/bad.yaml`, CORS_ORIGINS: 'page' })),
    new Set([
      'PORT',
      'LOG_LEVEL',
      'CORS_ORIGINS',
      'nonsense',
      'providers.x.type',
      'providers.x.apiKeys.0',
      'providers.y.baseUrl',
      'models.0.name',
      'models.0.targets',
      'streams.highWaterMark',
      'streams.flushMs',
    ]),
  );
  t.same(invalidNames({ CONFIG_FILE: `${dir}/cross.yaml`, DEFAULT_MODEL: 'c/x' }), [
    'providers.a.baseUrl',
    'models.0.targets.0.provider',
    'models.1.name',
    'DEFAULT_MODEL',
  ]);
  t.same(invalidNames({ CONFIG_FILE: `${dir}/broken.yaml` }), ['CONFIG_FILE']);
  t.same(invalidNames({ CONFIG_FILE: `${dir}/list.yaml` }), ['CONFIG_FILE']);
  t.same(invalidNames({ CONFIG_FILE: `${dir}/none.yaml` }), ['CONFIG_FILE']);
  t.match(problems({ BELLA_API_KEY: 'k' })[0], 'DEFAULT_MODEL=bella/<model>', 'the message shows the line to add');
  for (const file of ['bad', 'broken', 'cross']) {
    t.notMatch(problems({ CONFIG_FILE: `${dir}/${file}.yaml` }).join('\n'), /SECRET/, file);
  }
});

t.test('unknown models, invalid addresses and numbers that are not integers are reported', async (t) => {
  const bella = { BELLA_API_KEY: 'k' };
  for (const model of ['bellas', 'bella', 'bella/', '/x', 'other/x']) {
    t.ok(problems({ ...bella, DEFAULT_MODEL: model }).length > 0, `DEFAULT_MODEL=${model}`);
  }
  t.match(
    problems({ ...bella, DEFAULT_MODEL: 'bella/m', BELLA_BASE_URL: 'http://a:99999/v1' })[0],
    /^providers\.bella\.baseUrl/,
  );
  for (const list of ['foo', '10.0.0.0/33', '::1/129', '10.0.0.1,x']) {
    t.match(problems({ TRUST_PROXY: list })[0], /^TRUST_PROXY/, list);
  }
  t.same(loadConfig({ TRUST_PROXY: 'loopback, 10.0.0.0/8, ::1/128' }).trustProxy, [
    'loopback',
    '10.0.0.0/8',
    '::1/128',
  ]);
  for (const value of ['3e5', '1.9', '0x10', 'true', '-1', ' ']) {
    if (value.trim()) t.match(problems({ STREAM_TTL_MS: value })[0], /^STREAM_TTL_MS/, value);
  }
  const file = writeConfig(t, ['port: "$', '{P}"'].join(''));
  t.equal(loadConfig({ CONFIG_FILE: file, P: '4000' }).port, 4000, 'a variable in the file can give a number');
});

t.test('each problem is reported once, together with all others', async (t) => {
  const file = writeConfig(t, 'providers: { b: { type: bella, apiKeys: ["$' + '{NOPE_KEY}"], models: "*" } }');
  t.same(problems({ CONFIG_FILE: file }), ['NOPE_KEY: used in CONFIG_FILE but not set']);
  const reported = problems({ PORT: 'abc', BELLA_API_KEY: 'k', DEFAULT_MODEL: 'gpt-4o', TRUST_PROXY: 'maybe' });
  t.same(
    reported.map((problem) => problem.split(':')[0]),
    ['PORT', 'TRUST_PROXY', 'DEFAULT_MODEL'],
  );
});

t.test('an invalid configuration exits 1 and reports every problem, without a stack', async (t) => {
  const { exit, output } = spawnServer({ PORT: '99999', LOG_LEVEL: 'loud' });
  t.equal(await exit, 1);
  t.match(output(), /PORT: .*\n.*LOG_LEVEL: must be one of/);
  t.notMatch(output(), /\bat .*:\d+:\d+/);
});

t.test('a port in use exits 1 and reports EADDRINUSE', async (t) => {
  const { url } = await runServer(t, {});
  const { exit, output } = spawnServer({ PORT: new URL(url).port });
  t.equal(await exit, 1);
  t.match(output(), /Cannot listen on 127\.0\.0\.1:\d+: EADDRINUSE/);
});

t.test('base URLs of cloud metadata addresses need allowPrivate', async (t) => {
  const problemsOf = (host: string, more = '') =>
    problems({
      CONFIG_FILE: writeConfig(
        t,
        `providers: { p: { type: openai, baseUrl: "http://${host}/v1", models: "*"${more} } }`,
      ),
    });
  const forbidden = [
    '169.254.169.254',
    '[::ffff:a9fe:a9fe]',
    '0xa9fea9fe',
    '2852039166',
    '[fe80::1]',
    '100.100.100.200',
    '[fd00:ec2::254]',
    '[2002:a9fe:a9fe::]',
    '[64:ff9b::a9fe:a9fe]',
    'metadata.google.internal',
  ];
  for (const host of forbidden) {
    t.match(problemsOf(host), [/allowPrivate: true/], host);
    t.same(problemsOf(host, ', allowPrivate: true'), [], `${host}, with allowPrivate`);
  }
  for (const host of ['127.0.0.1', 'localhost', '[::1]', '10.0.0.1', '192.168.1.1', '[fd12::1]', '100.64.0.1']) {
    t.same(problemsOf(host), [], `${host} is allowed`);
  }
  for (const host of ['user:pass@a.example', 'a.example/../#x'])
    t.not(problemsOf(host).length, 0, `${host} is reported`);
});

t.test('invalid keys and invalid JWT settings are reported', async (t) => {
  const problemsOf = (yaml: string) => problems({ CONFIG_FILE: writeConfig(t, yaml) });
  const hash = 'a'.repeat(64);
  const expiring = (expiresAt: string) => problemsOf(`keys: [{ name: a, sha256: ${hash}, expiresAt: "${expiresAt}" }]`);
  for (const date of ['2030-01-01', '2028-02-29', '2030-01-01T12:00:00Z', '2030-12-31T23:59:59+02:00', '2020-01-01']) {
    t.same(expiring(date), [], date);
  }
  for (const date of ['2027-02-31', '2027-02-29', '2027-13-01', '2027-04-31T12:00:00Z', '2027-01-01T25:00:00Z']) {
    t.match(expiring(date), [/^keys\.0\.expiresAt: must be a date that exists, such as /], date);
  }
  t.match(problemsOf(`keys: [{ name: a, sha256: ${hash} }, { name: a, sha256: ${'b'.repeat(64)} }]`), [
    /keys\.1: duplicate name/,
  ]);
  t.match(problemsOf(`keys: [{ name: a, sha256: ${hash} }, { name: b, sha256: ${hash.toUpperCase()} }]`), [
    /keys\.1: duplicate key/,
  ]);
  t.match(problemsOf('keys: [{ name: a, sha256: short }]'), [/keys\.0\.sha256/]);
  const jwt = (more: string) => problemsOf(`jwt: { issuer: i, audience: a, ${more} }`);
  t.match(jwt('algorithms: [RS256]'), [/either jwksUrl or secret/]);
  t.match(jwt('algorithms: [HS256], jwksUrl: "https://i.example/keys"'), [/HS… algorithms require secret/]);
  t.match(jwt(`algorithms: [RS256], secret: ${'s'.repeat(32)}`), [/HS… algorithms require secret/]);
  t.match(jwt('algorithms: [HS256], secret: short'), [/jwt\.secret/]);
});
