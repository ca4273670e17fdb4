import t from 'tap';
import { readConfig } from '../../plugins/config/load.ts';
import { parseRedisUrl } from '../../plugins/config/redis-url.ts';
import { ConfigSchema } from '../../plugins/config/schema.ts';
import { PROVIDER_TYPES } from '../../providers/registry.ts';
import { writeConfig } from '../helper.ts';

/** Tests values as people and platforms really set them: quotes, line ends, files, and characters that are not seen. */

const MODEL = { DEFAULT_MODEL: 'openai/m' };
const SECRET = 'CANARY-key';
const LONG_SECRET = 'CANARY-secret-of-thirty-two-characters';
/** The text of a variable of the file, which TypeScript and linters would take for a template. */
const variable = (name: string) => ['$', `{${name}}`].join('');

const read = (env: Record<string, string>) => readConfig(env);
const problems = (env: Record<string, string>) => {
  const found = read(env).problems;
  for (const problem of found) {
    if (/CANARY/.test(problem)) throw new Error('a problem repeats a value');
  }
  return found;
};

const WRAPPINGS: Record<string, (text: string) => string> = {
  'as it is': (text) => text,
  'a line end': (text) => `${text}\n`,
  CRLF: (text) => `${text}\r\n`,
  'several line ends': (text) => `\n${text}\n\n`,
  spaces: (text) => `  ${text}\t`,
  'double quotes': (text) => `"${text}"`,
  'single quotes': (text) => `'${text}'`,
  'quotes and a line end': (text) => `"${text}"\r\n`,
  'spaces inside quotes': (text) => `" ${text} "`,
  'a byte order mark': (text) => `\ufeff${text}`,
};

t.test('white space, line ends and quotes around a value are removed, in variables and in files', async (t) => {
  for (const [name, wrap] of Object.entries(WRAPPINGS)) {
    const yaml = `providers: { it: { type: openai, apiKeys: ["${variable('KEY')}"], models: [m] } }`;
    const secrets = { secret: wrap(SECRET), url: wrap('redis://:pw@h'), ticket: wrap(LONG_SECRET) };
    const file = t.testdir({
      ...secrets,
      'sluice.yaml': yaml,
      'keys.yaml': `keys: [{ name: a, sha256: "${'0'.repeat(64)}" }]`,
    });
    const keys = `${file}/keys.yaml`;
    const expected = {
      providers: { openai: { apiKeys: [SECRET] } },
      ticketSecret: LONG_SECRET,
      redis: { url: 'redis://:pw@h' },
    };
    const direct = { OPENAI_API_KEY: wrap(SECRET), TICKET_SECRET: wrap(LONG_SECRET), REDIS_URL: wrap('redis://:pw@h') };
    t.match(read({ ...MODEL, CONFIG_FILE: keys, ...direct }).config, expected, `${name}, in variables`);
    const byFile = {
      OPENAI_API_KEY_FILE: `${file}/secret`,
      TICKET_SECRET_FILE: `${file}/ticket`,
      REDIS_URL_FILE: wrap(`${file}/url`),
    };
    t.match(read({ ...MODEL, CONFIG_FILE: keys, ...byFile }).config, expected, `${name}, in files`);
    for (const env of [{ KEY: wrap(SECRET) }, { KEY_FILE: `${file}/secret` }]) {
      const { config } = read({ CONFIG_FILE: wrap(`${file}/sluice.yaml`), ...env } as Record<string, string>);
      t.same(config?.providers.it?.apiKeys, [SECRET], `${name}, in the file: ${Object.keys(env)}`);
    }
  }
});

t.test('every variable of a provider can be read from a file', async (t) => {
  const path = `${t.testdir({ secret: `${SECRET}\n` })}/secret`;
  for (const [type, { apiKeyEnv, baseUrlEnv = [] }] of Object.entries(PROVIDER_TYPES)) {
    if (apiKeyEnv === undefined) continue;
    const address = type === 'azure' ? { [baseUrlEnv[0] as string]: 'https://a.example' } : {};
    const env = { [`${apiKeyEnv}_FILE`]: path, DEFAULT_MODEL: `${type}/m`, ...address };
    t.same(read(env).config?.providers[type]?.apiKeys, [SECRET], `${apiKeyEnv}_FILE`);
  }
});

t.test('several keys are separated by commas or line ends, each with or without quotes', async (t) => {
  for (const text of ['a,b', ' a , b ', '"a","b"', '"a,b"', "'a', 'b'", 'a\nb\n', 'a\r\n\r\nb', 'a,,b,']) {
    t.same(
      read({ ...MODEL, OPENAI_API_KEY: text }).config?.providers.openai?.apiKeys,
      ['a', 'b'],
      JSON.stringify(text),
    );
  }
  t.same(read({ CORS_ORIGINS: '"https://a.example", https://b.example\n' }).config?.corsOrigins, [
    'https://a.example',
    'https://b.example',
  ]);
});

t.test(
  'a variable that is empty counts as unset; one of white space, or a list without keys, is reported',
  async (t) => {
    for (const empty of ['', '""', "''", ' "" ']) {
      t.same(Object.keys(read({ OPENAI_API_KEY: empty }).config?.providers ?? {}), ['demo'], JSON.stringify(empty));
    }
    for (const blank of [' ', '\n', '\r\n', '\t ', '" "']) {
      for (const name of ['OPENAI_API_KEY', 'TICKET_SECRET', 'REDIS_URL', 'PORT', 'CORS_ORIGINS', 'CONFIG_FILE']) {
        t.same(problems({ [name]: blank }), [`${name}: contains only white space`], `${name}=${JSON.stringify(blank)}`);
      }
    }
    for (const list of [',', '"",""', ' , '])
      t.same(problems({ ...MODEL, OPENAI_API_KEY: list }), ['OPENAI_API_KEY: contains no key']);
    const yaml = `providers: { it: { type: openai, apiKeys: ["${variable('KEY')}"], models: [m] } }`;
    const CONFIG_FILE = writeConfig(t, yaml);
    t.same(problems({ CONFIG_FILE }), ['KEY: used in CONFIG_FILE but not set']);
    t.same(problems({ CONFIG_FILE, KEY: '\n' }), ['KEY: contains only white space']);
    t.match(
      problems({ CONFIG_FILE: writeConfig(t, 'providers: { it: { type: openai, apiKeys: [""], models: [m] } }') }),
      [/^providers\.it\.apiKeys\.0: /],
    );
  },
);

t.test('a file that is missing, unreadable, empty, or set beside its variable is reported', async (t) => {
  const dir = t.testdir({ empty: '', blank: '\n \n', secret: SECRET });
  for (const name of ['OPENAI_API_KEY', 'TICKET_SECRET', 'REDIS_URL', 'BELLA_API_KEY']) {
    t.same(problems({ [`${name}_FILE`]: `${dir}/none` }), [`${name}_FILE: file not found`]);
    t.same(problems({ [`${name}_FILE`]: dir }), [`${name}_FILE: cannot be read (EISDIR)`]);
    for (const file of ['empty', 'blank'])
      t.same(problems({ [`${name}_FILE`]: `${dir}/${file}` }), [`${name}_FILE: the file is empty`]);
    const [problem] = problems({ ...MODEL, [name]: LONG_SECRET, [`${name}_FILE`]: `${dir}/secret` });
    t.equal(problem, `${name}: set either ${name} or ${name}_FILE, not both`);
  }
  t.same(
    read({ ...MODEL, OPENAI_API_KEY: '', OPENAI_API_KEY_FILE: `${dir}/secret` }).config?.providers.openai?.apiKeys,
    [SECRET],
  );
  t.same(read({ ...MODEL, OPENAI_API_KEY: SECRET, OPENAI_API_KEY_FILE: '' }).config?.providers.openai?.apiKeys, [
    SECRET,
  ]);
  const [problem] = problems({ ...MODEL, OPENAI_API_KEY_FILE: `${t.testdir({ secret: 'CANARY key' })}/secret` });
  t.equal(problem, 'OPENAI_API_KEY_FILE: not valid: contains a space', 'the problem names the variable that is set');
});

t.test('a value that is not valid is reported with its reason, and is not repeated', async (t) => {
  const keys: Record<string, string> = {
    'Bearer CANARY': 'starts with "Bearer"; write the key alone',
    'bearer CANARY': 'starts with "Bearer"; write the key alone',
    'CANARY key': 'contains a space',
    'CANARY\tkey': 'contains a space',
    '"CANARY': 'contains a quotation mark',
    "CANARY'": 'contains a quotation mark',
    'CANARY”': 'contains a quotation mark',
    CANARYé: 'contains a character that is not ASCII',
    'CANARY\u200b': 'contains an invisible character',
    '\u200bCANARY': 'contains an invisible character',
    'CAN\u2060ARY': 'contains an invisible character',
    'CANARY\u0000key': 'contains an invisible character',
    'CANARY\u001b[0m': 'contains an invisible character',
  };
  for (const [key, reason] of Object.entries(keys)) {
    const label = JSON.stringify(key);
    t.match(problems({ ...MODEL, OPENAI_API_KEY: key }), [new RegExp(`^OPENAI_API_KEY: .*${reason}`)], label);
    const inFile = JSON.stringify({ providers: { it: { type: 'openai', apiKeys: ['ok', key], models: ['m'] } } });
    const CONFIG_FILE = writeConfig(t, inFile);
    t.match(
      problems({ CONFIG_FILE }),
      [new RegExp(`^providers\\.it\\.apiKeys\\.1: .*${reason}`)],
      `${label} in the file`,
    );
  }
  t.match(
    problems({
      CONFIG_FILE: writeConfig(
        t,
        JSON.stringify({ providers: { it: { type: 'openai', apiKeys: ['CANARY\n'], models: ['m'] } } }),
      ),
    }),
    [/contains a line break/],
  );
  t.same(problems({ TICKET_SECRET: `${LONG_SECRET}\u200b` }), ['TICKET_SECRET: contains an invisible character']);
  const headers = { 'x-token': 'CANARY with spaces "and quotes" é' };
  const CONFIG_FILE = writeConfig(t, JSON.stringify({ providers: { it: { type: 'openai', headers, models: ['m'] } } }));
  t.match(problems({ CONFIG_FILE }), [/x-token: not valid: contains a character that is not ASCII$/]);
});

t.test('an address without a scheme gets a hint', async (t) => {
  for (const url of ['CANARY.example/v1', 'CANARY:8000/v1', '//CANARY/v1', 'htps://CANARY/v1', 'ftp://CANARY']) {
    const hint = 'not valid: must start with https:// or http://';
    t.same(problems({ ...MODEL, OPENAI_API_KEY: 'k', OPENAI_BASE_URL: url }), [`OPENAI_BASE_URL: ${hint}`], url);
    const yaml = `providers: { it: { type: vllm, baseUrl: "${url}", models: [m] } }`;
    t.same(problems({ CONFIG_FILE: writeConfig(t, yaml) }), [`providers.it.baseUrl: ${hint}`], url);
  }
});

t.test('the password of REDIS_URL works if it is encoded; else the problem says how to encode it', async (t) => {
  const valid = [
    'redis://h',
    'redis://h/',
    'redis://h:6379/3',
    'rediss://user:pw@h:6380/0',
    'redis://:p%2Fw%23%3F%25%40@h',
    'redis://:p@w@h',
    'redis://:p:w@h',
    'redis://:p&w=+~^|;,!*()$<>{}[]\\@h',
    'redis://:pä@h',
    'redis://:pw@[::1]:6379',
    'redis://h?family=6',
  ];
  for (const url of valid) t.equal(read({ REDIS_URL: url }).config?.redis?.url, url, url);
  const encode = /^REDIS_URL: must be redis:.*%2F for \/, %23 for #, %3F for \? and %25 for %$/;
  for (const character of ['/', '#', '?', '%', '%2', '%zz', '%ff', '/#?%']) {
    for (const user of ['', 'user']) {
      for (const password of [
        `CANARY${character}`,
        `CAN${character}ARY`,
        `${character}CANARY`,
        `12${character}CANARY`,
      ]) {
        for (const host of ['h', 'h:6379', 'h:6379/0', '[::1]:6379']) {
          const found = problems({ REDIS_URL: `redis://${user}:${password}@${host}` });
          // `%2` followed by `AR` is an encoding, too, and cannot be told from a password.
          if (found.length === 0 && isEncoded(password)) continue;
          t.match(found, [encode], `${user}:${password}@${host}`);
        }
      }
    }
  }
  const others: Record<string, RegExp> = {
    'h:6379': /must start with redis:/,
    'http://h': /must start with redis:/,
    'REDIS://h': /must start with redis:/,
    'redis://': /must be redis:|has no host/,
    'redis:///0': /must be redis:|has no host/,
    'redis://h:99999': /must be redis:/,
    'redis://h/CANARY': /database .* must be a number/,
    'redis://:CANARY pw@h': /contains a space/,
    'redis://:CANARY\u200b@h': /contains an invisible character/,
  };
  for (const [url, problem] of Object.entries(others)) t.match(problems({ REDIS_URL: url }), [problem], url);
  const CONFIG_FILE = writeConfig(t, 'redis: { url: "redis://:CAN/ARY@h" }');
  t.match(problems({ CONFIG_FILE }), [/^redis\.url: must be redis:/], 'in the file');
});

t.test('addresses of a cluster and of Sentinels', async (t) => {
  const none = { user: undefined, password: undefined, name: '' };
  const nodes = [
    { host: 'a', port: 7_000 },
    { host: 'b.example', port: 7_001 },
  ];
  const valid: [url: string, address: object][] = [
    ['redis+cluster://a:7000,b.example:7001', { kind: 'cluster', isTls: false, nodes, ...none }],
    ['redis+cluster://a:7000,b.example:7001/', { kind: 'cluster', isTls: false, nodes, ...none }],
    ['rediss+cluster://a', { kind: 'cluster', isTls: true, nodes: [{ host: 'a', port: 6_379 }], ...none }],
    [
      'redis+cluster://u:p%2F@w:x@[::1]:7000,10.0.0.1',
      {
        ...{ kind: 'cluster', isTls: false, name: '', user: 'u', password: 'p/@w:x' },
        nodes: [
          { host: '::1', port: 7_000 },
          { host: '10.0.0.1', port: 6_379 },
        ],
      },
    ],
    ['redis+sentinel://a:7000,b.example:7001/main', { kind: 'sentinel', isTls: false, nodes, ...none, name: 'main' }],
    [
      'rediss+sentinel://:p,w@a/my%20main',
      {
        ...{ kind: 'sentinel', isTls: true, user: undefined, password: 'p,w', name: 'my main' },
        nodes: [{ host: 'a', port: 26_379 }],
      },
    ],
    ['rediss://:pw@h:1/2', { kind: 'primary', isTls: true, user: undefined, password: 'pw', name: '' }],
  ];
  for (const [url, address] of valid) {
    t.same(problems({ REDIS_URL: url }), [], url);
    t.match(parseRedisUrl(url), address, url);
  }
  const wrong: Record<string, RegExp> = {
    'redis+cluster://': /has no host/,
    'redis+cluster://u:CANARY@': /has no host/,
    'redis+cluster://a,,b': /must be redis\+cluster:/,
    'redis+cluster://a:0': /must be redis\+cluster:/,
    'redis+cluster://a:65536': /must be redis\+cluster:/,
    'redis+cluster://a:CANARY': /must be redis\+cluster:/,
    'redis+cluster://a b': /contains a space/,
    'redis+cluster://a/1': /a cluster has no database/,
    'redis+cluster://a?tls=1': /options after \? are not supported/,
    'redis+cluster://:CAN/ARY@a': /must be redis\+cluster:.*%2F for \//,
    'redis+cluster://:CANARY%zz@a': /must be redis\+cluster:.*%2F for \//,
    'redis+sentinel://a,b': /has no name of the primary/,
    'redis+sentinel://a,b/': /has no name of the primary/,
    'redis+sentinel://a/main/0': /Sentinel has no database/,
    'redis+sentinel://a/%zz': /must end with the name/,
    'redis+sentinel:///main': /has no host/,
    'redis+other://a': /must start with redis:/,
    'redis://a,b': /has several hosts; use redis\+cluster:/,
    'redis://:CANARY@a:7000,b:7001/0': /has several hosts/,
  };
  for (const [url, problem] of Object.entries(wrong)) t.match(problems({ REDIS_URL: url }), [problem], url);
  t.same(problems({ REDIS_URL: 'redis://:a,b@h' }), [], 'a comma in a password');
  const cluster = { REDIS_URL: 'redis+cluster://a' };
  t.match(problems({ ...cluster, REDIS_PREFIX: '{x}' }), [/^REDIS_PREFIX: .* on one node/]);
  t.same(problems({ REDIS_URL: 'redis://a', REDIS_PREFIX: '{x}' }), []);
  const sentinel = { REDIS_URL: 'redis+sentinel://a/main', REDIS_SENTINEL_PASSWORD: 'pw' };
  t.equal(read(sentinel).config?.redis?.sentinelPassword, 'pw');
  t.match(problems({ ...sentinel, ...cluster }), [/^REDIS_SENTINEL_PASSWORD: has no effect/]);
});

/** Returns true for a text that an address may contain as a password. */
function isEncoded(text: string): boolean {
  try {
    return !/[/#?]/.test(text) && decodeURIComponent(text) !== text;
  } catch {
    return false;
  }
}

t.test('YAML with warnings, unfilled templates and too many aliases is reported, and prints nothing', async (t) => {
  const warnings: unknown[] = [];
  const onWarning = (warning: unknown) => warnings.push(warning);
  process.on('warning', onWarning);
  t.teardown(() => process.off('warning', onWarning));
  const aliases = `a: &a [${'x,'.repeat(50)}]\nb: &b [${'*a,'.repeat(50)}]\nc: [${'*b,'.repeat(50)}]\n`;
  const files: Record<string, RegExp> = {
    'providers: { it: { type: openai, apiKeys: [!vault CANARY], models: [m] } }':
      /^CONFIG_FILE: not valid YAML at line 1, column /,
    'providers: { it: { type: openai, apiKeys: [{{ CANARY }}], models: [m] } }': /^providers\.it\.apiKeys\.0: /,
    'ticketSecret: [CANARY': /^CONFIG_FILE: not valid YAML at line 1, column /,
    [aliases]: /^CONFIG_FILE: not valid YAML: too many aliases$/,
  };
  for (const [yaml, problem] of Object.entries(files)) {
    t.match(problems({ CONFIG_FILE: writeConfig(t, yaml) })[0], problem, yaml.slice(0, 60));
  }
  await new Promise(setImmediate);
  t.same(warnings, [], 'no warning was printed');
});

t.test('$${NAME} in the file is the text itself', async (t) => {
  const CONFIG_FILE = writeConfig(
    t,
    `models: [{ name: m, targets: [{ provider: demo, model: x }], continuePrompt: "$${variable('X')} ${variable('Y')}" }]\nproviders: { demo: { type: demo } }`,
  );
  t.equal(read({ CONFIG_FILE, Y: 'y' }).config?.models[0]?.continuePrompt, `${variable('X')} y`);
});

t.test('keys, tokens and origins of a wrong shape are reported, without an exception', async (t) => {
  const files = {
    'keys: [{ name: web }]': /^keys\.0\.sha256: /,
    'keys: [web]': /^keys\.0: /,
    'keys: web': /^keys: /,
    'keys:': /^keys: /,
    'jwt: true': /^jwt: /,
    'jwt: { issuer: i, audience: a }': /^jwt\.algorithms: /,
    'jwt: { issuer: i, audience: a, algorithms: [RS256], jwksUrl: "https://[" }': /^jwt\.jwksUrl: must be a URL/,
    'corsOrigins:': /^corsOrigins: /,
    'models: default': /^models: /,
    'keyDefaults:': /^keyDefaults: must be a mapping/,
    'keyDefaults: { requestsPerMinute: 0 }': /^keyDefaults\.requestsPerMinute: .*greater/,
    'keyDefaults: { tokensPerMinute: many }': /^keyDefaults\.tokensPerMinute: expected integer/,
    'keyDefaults: { maxConcurrent: 1.5 }': /^keyDefaults\.maxConcurrent: expected integer/,
    'keyDefaults: { requestPerMinute: 5 }': /^keyDefaults\.requestPerMinute: /,
    'keyDefaults: { models: small }': /^keyDefaults\.models: must be a list/,
    'jwt: { issuer: i, audience: a, algorithms: [RS256], defaults: 5 }': /^jwt\.defaults: must be a mapping/,
    'anonymous: 5': /^anonymous: must be a mapping/,
    'anonymous: { maxConcurrent: -1 }': /^anonymous\.maxConcurrent: /,
    'anonymous: { models: [demo/demo] }': /^anonymous\.models: Unexpected property/,
    'limits: { unauthenticatedPerMinute: -1 }': /^limits\.unauthenticatedPerMinute: /,
  };
  for (const [yaml, problem] of Object.entries(files)) {
    t.match(problems({ CONFIG_FILE: writeConfig(t, yaml) })[0], problem, yaml);
  }
});

t.test('defaults and limits that apply to nobody are reported, each with one line', async (t) => {
  const keys = `keys: [{ name: a, sha256: "${'0'.repeat(64)}" }]`;
  const jwt = `jwt: { secret: "${LONG_SECRET}", issuer: i, audience: a, algorithms: [HS256] }`;
  const cases: [yaml: string[], expected: RegExp[]][] = [
    [[keys, 'keyDefaults: { maxConcurrent: 1 }'], []],
    [[jwt.replace('}', ', defaults: { maxConcurrent: 1 } }')], []],
    [['anonymous: { maxConcurrent: 1 }'], []],
    [['keyDefaults: { maxConcurrent: 1 }'], [/^keyDefaults: needs keys; without keys everybody can ask/]],
    [
      [jwt, 'keyDefaults: { maxConcurrent: 1 }'],
      [/^keyDefaults: needs keys; the defaults of tokens are jwt\.defaults/],
    ],
    [[keys, 'anonymous: {}'], [/^anonymous: applies only without keys and jwt; remove it, and set keyDefaults/]],
    [[jwt, 'anonymous: {}'], [/^anonymous: applies only without keys and jwt/]],
    [
      [keys, 'keyDefaults: { models: [gone] }'],
      [/^keyDefaults\.models: gone is not configured; configured: demo\/demo/],
    ],
    [[jwt.replace('}', ', defaults: { models: [gone] } }')], [/^jwt\.defaults\.models: gone is not configured/]],
  ];
  for (const [yaml, expected] of cases) {
    const found = problems({ CONFIG_FILE: writeConfig(t, `${yaml.join('\n')}\n`) });
    t.equal(found.length, expected.length, `${yaml.at(-1)}: ${found}`);
    t.match(found, expected, yaml.join());
  }
});

interface SchemaNode {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, SchemaNode>>;
  readonly items?: SchemaNode;
}

/** Returns the path and the kind of each list and mapping of the schema. */
function shapes(node: SchemaNode, path: readonly string[] = []): [path: readonly string[], kind: string][] {
  const children = Object.entries(node.properties ?? {}).flatMap(([name, child]) => shapes(child, [...path, name]));
  const own: [readonly string[], string][] =
    path.length > 0 && (node.type === 'array' || node.type === 'object') ? [[path, node.type]] : [];
  return [...own, ...children, ...(node.items ? shapes(node.items, [...path, '0']) : [])];
}

/** Returns a configuration with a value at a path; a number in the path is an entry of a list. */
function configWith(path: readonly string[], value: unknown): unknown {
  const [first, ...rest] = path;
  if (first === undefined) return value;
  const inner = configWith(rest, value);
  return first === '0' ? [inner] : { [first]: inner };
}

t.test('a list that is no list, and a mapping that is no mapping, are named', async (t) => {
  const all = shapes(ConfigSchema as SchemaNode);
  t.ok(all.length > 15, `${all.length} lists and mappings`);
  for (const [path, kind] of all) {
    const others: Record<string, unknown> = { text: 'x', 'a number': 1, 'nothing (null)': null, 'a boolean': true };
    if (kind === 'array') Object.assign(others, { 'a mapping': { web: { name: 'a' } }, 'an empty mapping': {} });
    else Object.assign(others, { 'a list': ['x'], 'an empty list': [] });
    for (const [name, value] of Object.entries(others)) {
      const file = writeConfig(t, JSON.stringify(configWith(path, value)));
      const { config, problems: found } = readConfig({ CONFIG_FILE: file });
      t.equal(config, undefined, `${path.join('.')} is ${name}: refused`);
      const expected = `${path.join('.')}: must be a ${kind === 'array' ? 'list' : 'mapping'}`;
      t.ok(
        found.some((problem) => problem.startsWith(expected)),
        `${path.join('.')} is ${name}: ${found.join('; ')}`,
      );
    }
  }
});

t.test('a configuration that mentions keys, tokens or tickets starts no open service', async (t) => {
  const closed = [
    'keys:',
    'keys: []',
    'keys: {}',
    'keys: { web: { sha256: x } }',
    'keys: web',
    'keys:\n  name: web',
    'jwt:',
    'jwt: []',
  ];
  for (const yaml of closed) {
    const { config, problems: found } = readConfig({ CONFIG_FILE: writeConfig(t, `${yaml}\n`) });
    t.equal(config, undefined, yaml);
    t.match(found.join(), /^(keys|jwt)\b/, `${yaml}: ${found}`);
  }
  t.match(problems({ TICKET_SECRET: LONG_SECRET }), [/^TICKET_SECRET: needs keys or jwt/]);
  t.same(problems({}), [], 'nothing is mentioned');
  const jwt =
    'jwt: { secret: "a secret of more than thirty-two characters", issuer: i, audience: a, algorithms: [HS256] }';
  t.same(problems({ CONFIG_FILE: writeConfig(t, `${jwt}\nkeys: []\n`) }), [], 'tokens alone');
});

t.test(
  'origins of pages and apps are accepted as browsers send them; any other spelling is refused with the right one',
  async (t) => {
    const good = [
      'https://app.example',
      'http://localhost:5173',
      'https://a.example:8443',
      'http://127.0.0.1',
      'https://xn--bcher-kva.example',
    ];
    const apps = [
      'tauri://localhost',
      'capacitor://localhost',
      'ionic://localhost',
      'app://obsidian.md',
      'vscode-webview://abc123',
    ];
    const extensions = ['chrome-extension://abcdefghijklmnopabcdefghijklmnop', 'moz-extension://0f0e-11'];
    for (const origin of [...good, ...apps, ...extensions, '*']) t.same(problems({ CORS_ORIGINS: origin }), [], origin);
    t.same(problems({ CORS_ORIGINS: [...good, ...apps].join(',') }), []);
    for (const [origin, problem] of Object.entries({
      'https://App.example': 'write https://app.example, as browsers send it',
      'HTTPS://app.example': 'write https://app.example, as browsers send it',
      'https://app.example:443': 'write https://app.example, as browsers send it',
      'http://app.example:80': 'write http://app.example, as browsers send it',
      'https://bücher.example': 'write https://xn--bcher-kva.example, as browsers send it',
      'Tauri://localhost': 'write tauri://localhost, as browsers send it',
      'https://app.example/': 'write https://app.example, without a path',
      'https://App.example/page?x': 'write https://app.example, without a path',
      'https://*.app.example': 'wildcards are not supported; list each origin',
      'https://app.example:*': 'wildcards are not supported; list each origin',
      null: '`null` cannot be listed, because every sandboxed page has this origin',
      'app.example': 'must be <scheme>://<host>, for example https://app.example or tauri://localhost',
      'https://': 'must be <scheme>://<host>, for example https://app.example or tauri://localhost',
      'https://user@app.example': 'must be <scheme>://<host>, for example https://app.example or tauri://localhost',
      'https://app.example:99999': 'has a host or a port that is not valid',
    })) {
      t.same(problems({ CORS_ORIGINS: origin }), [`CORS_ORIGINS: ${problem}`], origin);
      t.match(
        problems({ CORS_ORIGINS: `https://ok.example,${origin}` }),
        [`CORS_ORIGINS: ${problem}`],
        `${origin}, in a list`,
      );
    }
  },
);
