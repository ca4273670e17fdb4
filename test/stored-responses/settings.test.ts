import { writeFileSync } from 'node:fs';
import t from 'tap';
import { loadConfig, readConfig } from '../../plugins/config/load.ts';
import { writeConfig } from '../helper.ts';

/** Settings of stored responses and of the webhook. */

const URL = 'https://hooks.example/sluice';
const SECRET = `whsec_${Buffer.alloc(24, 7).toString('base64')}`;

t.test('defaults, variables and the file', (t) => {
  t.match(loadConfig({}).responses, { ttlMs: 3_600_000, maxPerOwner: 10_000, webhook: undefined });
  const file = `${t.testdir({ secret: `${SECRET}\n` })}/secret`;
  const { responses } = loadConfig({
    RESPONSES_TTL_MS: '86400000',
    RESPONSES_WEBHOOK_URL: URL,
    RESPONSES_WEBHOOK_SECRET_FILE: file,
  });
  const webhook = { url: URL, secrets: [SECRET], allowPrivate: false, timeoutMs: 10_000, retryMs: 86_400_000 };
  t.match(responses, { ttlMs: 86_400_000, webhook });
  const yaml = `responses: { webhook: { url: 'https://a.example', secrets: ['\${HOOK}'], retryMs: 60000 } }`;
  const fromFile = loadConfig({ CONFIG_FILE: writeConfig(t, yaml), HOOK: SECRET });
  t.match(fromFile.responses.webhook, { url: 'https://a.example', secrets: [SECRET], retryMs: 60_000 });
  t.end();
});

t.test('settings that cannot work are refused by name, and never with the secret', (t) => {
  const variables = { RESPONSES_WEBHOOK_URL: URL, RESPONSES_WEBHOOK_SECRET: SECRET };
  const path = writeConfig(t, '');
  for (const [env, yaml, expected] of [
    [{ RESPONSES_WEBHOOK_URL: URL }, '', /^responses\.webhook\.secrets: /],
    [{ RESPONSES_WEBHOOK_SECRET: SECRET }, '', /^responses\.webhook\.url: /],
    [{ ...variables, RESPONSES_WEBHOOK_SECRET: SECRET.slice(6) }, '', /^RESPONSES_WEBHOOK_SECRET: /],
    [{ ...variables, RESPONSES_WEBHOOK_SECRET: 'whsec_c2hvcnQ=' }, '', /^RESPONSES_WEBHOOK_SECRET: /],
    [{ ...variables, RESPONSES_WEBHOOK_SECRET: `${SECRET},whsec_c2hvcnQ=` }, '', /^RESPONSES_WEBHOOK_SECRET: /],
    [{ ...variables, RESPONSES_WEBHOOK_URL: 'ftp://hooks.example' }, '', /^RESPONSES_WEBHOOK_URL: /],
    [{ ...variables, RESPONSES_WEBHOOK_URL: 'https://user:word@hooks.example' }, '', /^RESPONSES_WEBHOOK_URL: /],
    [{ ...variables, RESPONSES_WEBHOOK_URL: 'https://a:99999/' }, '', /^responses\.webhook\.url: must be a URL/],
    [{ ...variables, RESPONSES_WEBHOOK_URL: 'http://169.254.169.254/' }, '', /^responses\.webhook\.url: .*metadata/],
    [{ ...variables, RESPONSES_WEBHOOK_URL: 'http://[fe80::1]/' }, '', /^responses\.webhook\.url: .*link-local/],
    [{ ...variables, RESPONSES_WEBHOOK_URL: 'http://metadata.google.internal' }, '', /^responses\.webhook\.url: /],
    [variables, "responses: { webhook: { proxy: 'http://a.example/%zz' } }", /^responses\.webhook\.proxy: /],
    [variables, "responses: { webhook: { proxy: 'http://a:99999' } }", /^responses\.webhook\.proxy: /],
    [{ RESPONSES_TTL_MS: '0' }, '', /^RESPONSES_TTL_MS: /],
    [{}, 'responses: { ttlMs: 2592000001 }', /^responses\.ttlMs: /],
    [{}, 'responses: { maxBytesPerOwner: 65536 }', /^responses\.maxBytesPerOwner: .*maxRequestChars/],
    [{}, 'responses: { maxTotalBytes: 65536 }', /^responses\.maxTotalBytes: .*maxRequestChars/],
    [{}, 'responses: { webhooks: {} }', /^responses\.webhooks: /],
  ] as const) {
    writeFileSync(path, yaml);
    const { problems } = readConfig({ ...env, CONFIG_FILE: path });
    t.match(problems, [expected], `${JSON.stringify(env)} ${yaml}`);
    t.equal(problems.length, 1, String(problems));
    for (const secret of [SECRET.slice(6), 'c2hvcnQ', 'word@']) t.notOk(problems.join().includes(secret));
  }
  const allowed = `responses: { webhook: { url: 'http://169.254.1.1', allowPrivate: true, secrets: ['\${HOOK}'] } }`;
  writeFileSync(path, allowed);
  t.same(readConfig({ CONFIG_FILE: path, HOOK: SECRET }).problems, []);
  t.end();
});
