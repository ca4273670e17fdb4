import t, { type Test } from 'tap';
import { isPrivateHost } from '../../providers/addresses.ts';
import { isSelfHosted, PROVIDER_TYPES, type ProviderType } from '../../providers/registry.ts';
import type { ChatRequest } from '../../providers/types.ts';
import { checkUrls, limitLookups } from '../../providers/wire/question-urls.ts';
import { serve, writeConfig } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { completeAnswer, startUpstream } from '../upstream.ts';

/** Tests that a self-hosted provider is not asked to fetch private addresses that a question names. */

const PRIVATE = [
  '127.0.0.1',
  '10.1.2.3',
  '172.31.0.1',
  '192.168.0.1',
  '100.64.0.1',
  '169.254.169.254',
  '168.63.129.16',
  '0.0.0.0',
  '224.0.0.1',
  '[::1]',
  '[::]',
  '[fd00::1]',
  '[fe80::1]',
  '[::ffff:10.0.0.1]',
  '[::ffff:a00:1]',
  '[::10.0.0.1]',
  '[64:ff9b::10.0.0.1]',
  '[2002:a00:1::]',
  'localhost',
  'localhost.',
  'a.localhost',
  'redis',
  'metadata.google.internal',
  'vllm.default.svc.cluster.local',
  '',
];
const PUBLIC = [
  '203.0.113.7',
  '172.32.0.1',
  '[2606:4700::1]',
  '[64:ff9b::203.0.113.7]',
  'images.example',
  'a.local.example',
];

t.test('private addresses and names are recognized in every form', async (t) => {
  for (const host of PRIVATE) t.equal(isPrivateHost(host), true, host);
  for (const host of PUBLIC) t.equal(isPrivateHost(host), false, host);
  for (const url of ['https://0x7f.1/', 'https://2130706433/', 'https://0251.0376.0251.0376/', 'https://１０.0.0.1/'])
    t.equal(isPrivateHost(new URL(url).hostname), true, url);
});

const question = (...urls: string[]): ChatRequest => ({
  model: 'm',
  messages: [
    { role: 'system', content: 'https://127.0.0.1/' },
    { role: 'user', content: 'https://127.0.0.1/' },
    {
      role: 'user',
      content: [
        { type: 'text', text: 'https://127.0.0.1/' },
        ...urls.map((url, i) =>
          i % 2 === 0 ? { type: 'image' as const, url } : { type: 'file' as const, url, mimeType: 'application/pdf' },
        ),
      ],
    },
  ],
});
const REFUSED = {
  code: 'upstream_rejected',
  status: 400,
  refusal: 'invalid_parameter',
  param: 'messages',
  retryable: false,
  message: /^messages: /,
};
const { signal } = new AbortController();
const PUBLIC_ADDRESS = async () => ['203.0.113.7'];

t.test('URLs of images and files are checked, and only they', async (t) => {
  const data = 'data:image/png;base64,AAAA';
  t.equal(checkUrls(question(), signal, PUBLIC_ADDRESS), undefined, 'no URL');
  t.equal(checkUrls(question(data, data), signal, PUBLIC_ADDRESS), undefined, 'data: URLs');
  t.equal(
    await checkUrls(question('https://images.example/a.png'), signal, PUBLIC_ADDRESS),
    undefined,
    'a public host',
  );
  for (const host of PRIVATE.filter((one) => one !== '')) {
    await t.rejects(checkUrls(question(`https://${host}/x`), signal, PUBLIC_ADDRESS) as Promise<void>, REFUSED, host);
    const second = checkUrls(question('https://images.example/', `https://${host}/x`), signal, PUBLIC_ADDRESS);
    await t.rejects(second as Promise<void>, REFUSED, `${host} in a file`);
  }
  await t.rejects(checkUrls(question('https://'), signal, PUBLIC_ADDRESS) as Promise<void>, REFUSED, 'no URL');
});

t.test('a name is refused if one of its addresses is private, or if it has none', async (t) => {
  const lookups = [
    async () => ['203.0.113.7', '10.0.0.1'],
    async () => ['::1'],
    async () => [],
    async () => Promise.reject(Object.assign(new Error('x'), { code: 'ENOTFOUND' })),
  ];
  for (const lookup of lookups) {
    await t.rejects(checkUrls(question('https://images.example/'), signal, lookup) as Promise<void>, REFUSED);
  }
  const real = checkUrls(question('https://sluice.invalid/'), signal);
  await t.rejects(real as Promise<void>, REFUSED, 'with the resolver of the system');
});

t.test('an abort ends a lookup that hangs', async (t) => {
  const controller = new AbortController();
  const running = checkUrls(question('https://images.example/'), controller.signal, () => new Promise(() => {}));
  controller.abort(new Error('left'));
  await t.rejects(running as Promise<void>, { message: 'left' });
  const late = checkUrls(question('https://images.example/'), controller.signal, PUBLIC_ADDRESS);
  await t.rejects(late as Promise<void>, { message: 'left' }, 'aborted before');
});

t.test('few lookups run at once, and those of an aborted question do not run', async (t) => {
  const finish: (() => void)[] = [];
  const begun: string[] = [];
  const lookUp = limitLookups(async (hostname) => {
    begun.push(hostname);
    await new Promise<void>((resolve) => finish.push(resolve));
    return [hostname];
  });
  const controller = new AbortController();
  const first = [lookUp('a', signal), lookUp('b', signal)];
  const aborted = lookUp('c', controller.signal);
  const last = lookUp('d', signal);
  t.same(begun, ['a', 'b']);
  controller.abort(new Error('left'));
  finish.shift()?.();
  t.same(await first[0], ['a']);
  await t.rejects(aborted, { message: 'left' });
  t.same(begun, ['a', 'b', 'd'], 'the next one begins when one has ended');
  for (const end of finish.splice(0)) end();
  t.same(await Promise.all([first[1], last]), [['b'], ['d']]);

  const pending = Array.from({ length: 1_002 }, () => lookUp('x', signal));
  await t.rejects(lookUp('y', signal), { message: 'too many lookups' });
  for (let i = 0; i < pending.length; i++) {
    finish.shift()?.();
    await pending[i];
  }
  const later = lookUp('z', signal);
  finish.shift()?.();
  t.same(await later, ['z'], 'the capacity is free again');
});

t.test('self-hosted is a type, a private address, or another address than the service has', async (t) => {
  const cases: [type: string, baseUrl: string, expected: boolean][] = [
    ['vllm', 'https://vllm.example/v1', true],
    ['llama.cpp', 'http://127.0.0.1:8080/v1', true],
    ['gpustack', 'https://gpu.example/v1', true],
    ['openai-compatible', 'https://api.example/v1', true],
    ['ollama', 'http://127.0.0.1:11434', true],
    ['openai', 'https://api.openai.com/v1', false],
    ['openai', 'http://127.0.0.1:4000/v1', true],
    ['openai', 'https://gateway.example/v1', true],
    ['anthropic', 'https://api.anthropic.com/v1', false],
    ['databricks', 'https://workspace.example/serving-endpoints', false],
    ['databricks', 'http://10.0.0.1/serving-endpoints', true],
    ['azure', 'https://resource.openai.azure.com', false],
  ];
  for (const [type, baseUrl, expected] of cases) {
    t.equal(isSelfHosted(PROVIDER_TYPES[type] as ProviderType, baseUrl), expected, `${type} ${baseUrl}`);
  }
});

/** Asks about an image and returns the response and the number of calls of the provider. */
async function askAboutImage(t: Test, settings: string, imageUrl: string) {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const yaml = `providers: { p: { type: vllm, baseUrl: "${upstream.url}/v1", models: [m]${settings} } }`;
  const { url } = await serve(t, { env: { CONFIG_FILE: writeConfig(t, yaml) } });
  const content = [{ type: 'image_url', image_url: { url: imageUrl } }];
  const messages = [{ role: 'user', content }];
  const response = await postJson(`${url}/v1/chat/completions`, { model: 'p/m', messages });
  return { response, calls: upstream.calls.length };
}

t.test('a self-hosted provider is not asked about a private URL, unless it may be', async (t) => {
  const metadata = 'https://169.254.169.254/latest/meta-data';
  const { response, calls } = await askAboutImage(t, '', metadata);
  t.equal(response.status, 400);
  t.match(await response.json(), { error: { code: 'invalid_parameter', param: 'messages', message: /^messages: / } });
  t.equal(calls, 0);
  const passed = await askAboutImage(t, '', 'https://203.0.113.7/a.png');
  t.match([passed.response.status, passed.calls], [200, 1], 'a public address');
  const allowed = await askAboutImage(t, ', allowPrivate: true', metadata);
  t.match([allowed.response.status, allowed.calls], [200, 1], 'with allowPrivate');
});

t.test('a URL of more than 2,048 characters is refused', async (t) => {
  const ofLength = (length: number) => 'https://203.0.113.7/'.padEnd(length, 'x');
  t.equal((await askAboutImage(t, '', ofLength(2_048))).response.status, 200);
  const { response, calls } = await askAboutImage(t, '', ofLength(2_049));
  t.equal(response.status, 400);
  t.equal(calls, 0);
  const { url } = await serve(t);
  const ask = (image: string) => {
    const part = { type: 'file', mediaType: 'image/png', url: image };
    return postJson(`${url}/ui/chat`, { id: 'c', messages: [{ id: 'm', role: 'user', parts: [part] }] });
  };
  t.equal((await ask(ofLength(2_049))).status, 400, '/ui/chat');
  t.equal((await ask(ofLength(2_048))).status, 200, '/ui/chat');
  const run = (value: string) => {
    const content = [{ type: 'image', source: { type: 'url', value } }];
    return postJson(`${url}/agui`, { threadId: 't', runId: value, messages: [{ id: 'm', role: 'user', content }] });
  };
  t.equal((await run(ofLength(2_049))).status, 400, '/agui');
});
