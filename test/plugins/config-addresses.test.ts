import t from 'tap';
import { ConfigError, loadConfig } from '../../plugins/config/load.ts';
import { PROVIDER_TYPES, type ProviderType, resolveBaseUrl } from '../../providers/registry.ts';
import { writeConfig } from '../helper.ts';

/** Tests the environment variables that move a provider to another address. */

const GATEWAY = 'http://127.0.0.1:4000/v1';

t.test('<TYPE>_BASE_URL moves every provider that a variable enables', async (t) => {
  let count = 0;
  for (const [type, { apiKeyEnv, baseUrlEnv = [] }] of Object.entries(PROVIDER_TYPES)) {
    if (apiKeyEnv === undefined) continue;
    const standard = apiKeyEnv.replace(/_API_KEY$/, '_BASE_URL');
    t.ok(baseUrlEnv.includes(standard), standard);
    for (const name of baseUrlEnv) {
      const config = loadConfig({ [apiKeyEnv]: 'k', [name]: ` ${GATEWAY} `, DEFAULT_MODEL: `${type}/m` });
      t.match(config.providers[type], { type, apiKeys: ['k'], baseUrl: GATEWAY }, name);
      count += 1;
    }
  }
  t.ok(count >= 13, `${count} variables`);
});

t.test('a base URL alone enables no provider that needs a key', async (t) => {
  for (const { apiKeyEnv, baseUrlEnv = [] } of Object.values(PROVIDER_TYPES)) {
    if (apiKeyEnv === undefined) continue;
    for (const name of baseUrlEnv) t.same(Object.keys(loadConfig({ [name]: GATEWAY }).providers), ['demo'], name);
  }
  const ollama = loadConfig({ OLLAMA_BASE_URL: GATEWAY, DEFAULT_MODEL: 'ollama/m' });
  t.match(ollama.providers, { ollama: { type: 'ollama', baseUrl: GATEWAY } });
});

t.test('the variable overrides the file, for a provider with the name of its type', async (t) => {
  const file = (yaml: string) => ({ CONFIG_FILE: writeConfig(t, yaml), OPENAI_BASE_URL: GATEWAY });
  const { providers } = loadConfig(
    file('providers: { openai: { type: openai, baseUrl: "https://a.example/v1", apiKeys: [k], models: [m] } }'),
  );
  t.equal(providers.openai?.baseUrl, GATEWAY);
  const others = loadConfig(
    file(`providers:
  openai: { type: vllm, baseUrl: "https://a.example/v1", models: [m] }
  mine: { type: openai, baseUrl: "https://b.example/v1", models: [m] }`),
  );
  t.match(others.providers, { openai: { baseUrl: 'https://a.example/v1' }, mine: { baseUrl: 'https://b.example/v1' } });
});

t.test('problems name the variable', async (t) => {
  const problemsOf = (env: Record<string, string>) => {
    try {
      loadConfig(env);
    } catch (error) {
      if (error instanceof ConfigError) return error.problems.join('\n');
      throw error;
    }
    return '';
  };
  t.match(
    problemsOf({ OPENAI_API_KEY: 'k', OPENAI_BASE_URL: 'ftp://x', DEFAULT_MODEL: 'openai/m' }),
    /^OPENAI_BASE_URL: /,
  );
  t.match(
    problemsOf({ AZURE_OPENAI_API_KEY: 'k', DEFAULT_MODEL: 'azure/m' }),
    /^providers\.azure\.baseUrl: required for type azure; or set AZURE_OPENAI_ENDPOINT$/,
  );
  const metadata = { OPENAI_API_KEY: 'k', OPENAI_BASE_URL: 'http://169.254.169.254/', DEFAULT_MODEL: 'openai/m' };
  t.match(problemsOf(metadata), /^providers\.openai\.baseUrl: is a link-local/);
  for (const path of ['/chat/completions', '/completions', '/responses', '/messages', '/api/chat']) {
    for (const end of ['', '/']) {
      const url = `http://127.0.0.1:4000/v1${path}${end}`;
      const found = problemsOf({ OPENAI_API_KEY: 'k', OPENAI_BASE_URL: url, DEFAULT_MODEL: 'openai/m' });
      t.equal(found, `providers.openai.baseUrl: must end before the path of the API; leave out ${path}`, url);
    }
  }
});

t.test('a base URL without a path gets the path of the official SDKs', async (t) => {
  const cases: [string, string | undefined, string][] = [
    ['anthropic', 'https://gateway.example', 'https://gateway.example/v1'],
    ['anthropic', 'https://gateway.example/', 'https://gateway.example/v1'],
    ['anthropic', 'https://gateway.example/x', 'https://gateway.example/x'],
    ['gemini', 'https://gateway.example', 'https://gateway.example/v1beta'],
    ['openai', 'https://gateway.example:8443', 'https://gateway.example:8443/v1'],
    ['openai', undefined, 'https://api.openai.com/v1'],
    ['deepseek', 'https://gateway.example', 'https://gateway.example'],
    ['vllm', 'http://127.0.0.1:8000', 'http://127.0.0.1:8000'],
    ['demo', undefined, ''],
  ];
  for (const [type, configured, expected] of cases) {
    t.equal(resolveBaseUrl(PROVIDER_TYPES[type] as ProviderType, configured), expected, `${type} ${configured}`);
  }
});
