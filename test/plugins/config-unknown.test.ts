import fc from 'fast-check';
import t from 'tap';
import { environmentNames } from '../../plugins/config/environment.ts';
import { readConfig } from '../../plugins/config/load.ts';
import { describeUnknownVariables } from '../../plugins/config/unknown-variables.ts';
import { PROVIDER_TYPES } from '../../providers/registry.ts';

/** Environment variables that look like a setting and are none. */

const SETTINGS = [
  'CONFIG_FILE',
  ...environmentNames().values(),
  ...Object.values(PROVIDER_TYPES).flatMap(({ apiKeyEnv = [], baseUrlEnv = [] }) => [apiKeyEnv, baseUrlEnv].flat()),
];
const reported = (env: Record<string, string>) =>
  readConfig(env).unknownVariables.map(({ name, similar }) => [name, similar]);

const MISTAKES: Record<string, string | undefined> = {
  STREAM_GRACE: 'STREAM_GRACE_MS',
  STREAMS_TTL_MS: 'STREAM_TTL_MS',
  STREAM_TTL_SM: 'STREAM_TTL_MS',
  STREAM_STALL_MS: 'streams.stallMs in the file',
  STREAM_SOMETHING_ELSE: undefined,
  REDIS_URI: 'REDIS_URL',
  REDIS_HOST: 'REDIS_URL',
  REDIS_REQUIRE: 'REDIS_REQUIRED',
  MAX_GENERATION: 'MAX_GENERATIONS',
  CORS_ORIGIN: 'CORS_ORIGINS',
  OPENAI_API_KEYS: 'OPENAI_API_KEY',
  OPENAI_KEY: 'OPENAI_API_KEY',
  OPENAI_API_BASE: 'OPENAI_BASE_URL',
  OPEANI_API_KEY: 'OPENAI_API_KEY',
  BELLA_KEY: 'BELLA_API_KEY',
  BELLA_URL: 'BELLA_BASE_URL',
  ANTROPIC_API_KEY: 'ANTHROPIC_API_KEY',
  AZURE_OPENAI_URL: 'AZURE_OPENAI_ENDPOINT',
  OLLAMA_HOST: 'OLLAMA_BASE_URL',
  TICKET_SECRETS: 'TICKET_SECRET',
  TICKETS_SECRET: 'TICKET_SECRET',
  TRUSTED_PROXY: 'TRUST_PROXY',
  TRUST_PROXYS: 'TRUST_PROXY',
  LOGLEVEL: 'LOG_LEVEL',
  BASEPATH: 'BASE_PATH',
  DRAIN_TIMEOUT: undefined,
  LISTEN_SOCKET: 'LISTEN_SOCKETS',
  SLUICE_PORT: 'PORT',
  SLUICE_REDIS_URL: 'REDIS_URL',
  SLUICE_STREAM_GRACE: 'STREAM_GRACE_MS',
  SLUICE_MODE: undefined,
  STREAM_GRACE_FILE: 'STREAM_GRACE_MS_FILE',
  stream_grace_ms_file: 'STREAM_GRACE_MS_FILE',
  OPENAI_KEY_FILE: 'OPENAI_API_KEY_FILE',
  CONFIG_FILES: 'CONFIG_FILE',
  stream_grace_ms: 'STREAM_GRACE_MS',
  Default_Model: 'DEFAULT_MODEL',
  redis_url: 'REDIS_URL',
  DEADLINES_IDLE_MS: 'deadlines.idleMs in the file',
  LIMITS_EXPECTED_REPLICAS: 'limits.expectedReplicas in the file',
  JWT_SECRET: 'jwt.secret in the file',
  TRACING: 'tracing in the file',
};

t.test('spelling mistakes are reported with the name that was meant', async (t) => {
  for (const [name, similar] of Object.entries(MISTAKES)) {
    t.same(reported({ [name]: 'secret-value' }), [[name, similar]], name);
    t.same(reported({ [name]: '' }), [], `${name} is empty and counts as unset`);
  }
});

t.test('variables of other programs are not reported', async (t) => {
  const foreign = {
    HOSTNAME: 'pod-1',
    HOME: '/root',
    PATH: '/bin',
    NODE_ENV: 'production',
    NODE_OPTIONS: '--max-old-space-size=512',
    OPENAI_ORG_ID: 'org',
    OPENAI_ORGANIZATION: 'org',
    OPENAI_PROJECT: 'p',
    ANTHROPIC_AUTH_TOKEN: 't',
    OTEL_SERVICE_NAME: 'sluice',
    OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:4318',
    http_proxy: 'http://127.0.0.1:3128',
    https_proxy: 'http://127.0.0.1:3128',
    no_proxy: 'localhost',
    all_proxy: 'socks://127.0.0.1',
    FTP_PROXY: 'http://127.0.0.1:3128',
    EXA_API_KEY: 'k',
    FAL_API_KEY: 'k',
    DATABASE_URL: 'postgres://db',
    KUBERNETES_SERVICE_HOST: '10.0.0.1',
    KUBERNETES_PORT: 'tcp://10.0.0.1:443',
    REDIS_SERVICE_HOST: '10.0.0.2',
    REDIS_SERVICE_PORT_REDIS: '6379',
    REDIS_PORT: 'tcp://10.0.0.2:6379',
    REDIS_PORT_6379_TCP_ADDR: '10.0.0.2',
    SLUICE_SERVICE_HOST: '10.0.0.3',
    SLUICE_PORT: 'tcp://10.0.0.3:80',
    SLUICE_PORT_80_TCP: 'tcp://10.0.0.3:80',
    SLUICE_PORT_80_TCP_PORT: '80',
    npm_config_registry: 'x',
    npm_package_version: '0.1.0',
    'STREAM_GRACE\n': 'a name that no shell can set',
  };
  t.same(reported(foreign), []);
  t.same(reported({ REDIS_HOST: 'r', REDIS_PASSWORD: 'p', REDIS_URL: 'redis://r' }), [], 'beside the right one');
  t.same(reported({ REDIS_HOST: 'r', REDIS_URL_FILE: '/none' }), [], 'or its file');
});

t.test('a variable that the file uses is known, whatever its name', async (t) => {
  const dir = t.testdir({
    'c.yaml': `jwt: { secret: "\${JWT_SECRET}", issuer: i, audience: a, algorithms: [HS256] }`,
    secret: 'x'.repeat(40),
  });
  for (const env of [{ JWT_SECRET: 'x'.repeat(32) }, { JWT_SECRET_FILE: `${dir}/secret` }]) {
    const { problems, unknownVariables } = readConfig({ CONFIG_FILE: `${dir}/c.yaml`, ...env });
    t.same({ problems, unknownVariables }, { problems: [], unknownVariables: [] });
  }
});

t.test('no setting is reported, and neither is its file', async (t) => {
  fc.assert(
    fc.property(fc.subarray(SETTINGS), fc.boolean(), (names, isFile) => {
      const env = Object.fromEntries(names.map((name) => [isFile ? `${name}_FILE` : name, 'x']));
      return reported(env).length === 0;
    }),
  );
  t.pass();
});

t.test('a setting of ten characters or more with one wrong, missing or swapped character is reported', async (t) => {
  const long = SETTINGS.filter((name) => name.length >= 10 && name.search(/_(API_KEY|BASE_URL|ENDPOINT)$/) < 0);
  fc.assert(
    fc.property(
      fc.constantFrom(...long),
      fc.nat(),
      fc.constantFrom('drop', 'double', 'swap', 'replace'),
      (name, n, how) => {
        const i = n % (name.length - 1);
        const [before, one = '', next = '', after] = [name.slice(0, i), name[i], name[i + 1], name.slice(i + 2)];
        const changed = {
          drop: before + next + after,
          double: before + one + one + next + after,
          swap: before + next + one + after,
          replace: `${before}Q${next}${after}`,
        }[how as 'drop'];
        fc.pre(!SETTINGS.includes(changed));
        return reported({ [changed]: 'x' }).length === 1;
      },
    ),
  );
  t.pass();
});

t.test('the message names variables and never their values, and not more than twenty', async (t) => {
  const { unknownVariables } = readConfig({ STREAM_GRACE: 'secret', SLUICE_MODE: 'secret' });
  t.equal(
    describeUnknownVariables(unknownVariables),
    'unknown environment variables are ignored: STREAM_GRACE (did you mean STREAM_GRACE_MS?), SLUICE_MODE',
  );
  const many = Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`SLUICE_${i}`, 'x']));
  t.equal(readConfig(many).unknownVariables.length, 20);
});
