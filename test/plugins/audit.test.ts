import { SignJWT } from 'jose';
import t, { type Test } from 'tap';
import { createLineLimit } from '../../plugins/audit/line-limit.ts';
import { createChangeTracker } from '../../plugins/config/changes.ts';
import { loadConfig } from '../../plugins/config/load.ts';
import type { Config } from '../../plugins/config/schema.ts';
import { bearer, captureLog, serve, sha256, until, writeConfig } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { manualDate } from '../manual-date.ts';
import { open, readAll } from '../sse-client.ts';
import { completeAnswer, type Script, startUpstream } from '../upstream.ts';

/** Tests the lines that tell an operator who was refused, and what has changed. */

const SECRET = 'a shared secret of more than thirty-two characters';
const key = (name: string, more = '') => `{ name: ${name}, sha256: ${sha256(name)}${more} }`;
const inHalfAMinute = () => new Date(Date.now() + 30_000).toISOString();
const KEYS = [
  key('a'),
  key('b', ', models: [small]'),
  key('old', ', expiresAt: 2020-01-01'),
  key('gone'),
  key('soon', `, expiresAt: "${inHalfAMinute()}"`),
];
const JWT = `jwt: { secret: "${SECRET}", issuer: "https://issuer.example", audience: sluice, algorithms: [HS256] }`;

type Line = Record<string, unknown>;

async function start(t: Test, script: Script = completeAnswer('x'), { clock = manualClock(), settings = '' } = {}) {
  const upstream = await startUpstream(t, script);
  const { logTo, log } = captureLog();
  const yaml = `keys: [${KEYS.join(', ')}]
${JWT}
providers:
  it: { type: openai-compatible, baseUrl: "${upstream.url}/v1", apiKeys: [CANARY-provider-key], models: "*" }
models:
  - { name: big, targets: [{ provider: it, model: m }] }
  - { name: small, targets: [{ provider: it, model: s }] }
${settings}`;
  const env = { CONFIG_FILE: writeConfig(t, yaml), DEFAULT_MODEL: 'big' };
  const { app, url } = await serve(t, { env, logTo, clock });
  const lines = (event: string): Line[] =>
    log()
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Line)
      .filter(({ audit }) => audit === event);
  return { app, url, clock, upstream, lines, log };
}

const WARN = 40;
const INFO = 30;
const ERROR = 50;

const token = (claims: Record<string, unknown> = {}, secret = SECRET, header: Record<string, unknown> = {}) =>
  new SignJWT({
    iss: 'https://issuer.example',
    aud: 'sluice',
    sub: 'CANARY-subject',
    exp: Math.floor(Date.now() / 1000) + 60,
    ...claims,
  })
    .setProtectedHeader({ alg: 'HS256', ...header })
    .sign(new TextEncoder().encode(secret));

t.test('every refusal of credentials is logged with its reason, which the caller does not learn', async (t) => {
  const { app, url, clock, lines, log } = await start(t);
  const date = manualDate(t);
  const ticketOf = (name: string, payload = {}) =>
    app
      .inject({ method: 'POST', url: '/tickets', headers: bearer(name), payload })
      .then((r) => r.json().ticket as string);
  const [valid, other, used, ofGone] = [
    await ticketOf('a'),
    await ticketOf('b', { model: 'small' }),
    await ticketOf('a'),
    await ticketOf('gone'),
  ];
  const ofSoon = await ticketOf('soon');
  const started = await app.inject({
    method: 'POST',
    url: '/streams',
    headers: bearer('a'),
    payload: { question: 'q' },
  });
  const readUrl = started.json().url as string;
  const readTicket = readUrl.slice(readUrl.indexOf('?'));
  const keys = app.config.keys.filter(({ name }) => name !== 'gone');
  app.reloadConfig({ ...app.config, keys });
  await readAll(`${url}/ask/stream?question=q&ticket=${used}`);

  const ask = '/ask/stream?question=q';
  const cases: [reason: string, path: string, headers: Record<string, string>, owner?: string][] = [
    ['used', `/ask/stream?question=other&ticket=${used}`, {}, 'key:a'],
    ['missing', '/v1/models', {}],
    ['missing', ask, {}],
    ['malformed', '/v1/models', { authorization: 'Basic CANARY-credentials' }],
    ['unknown', '/v1/models', bearer('CANARY-key')],
    ['expired', '/v1/models', bearer('old'), 'key:old'],
    ['revoked', '/v1/models', bearer('gone'), 'key:gone'],
    ['expired', '/v1/models', bearer(await token({ exp: 1 }))],
    ['issuer', '/v1/models', bearer(await token({ iss: 'https://CANARY-issuer.example' }))],
    ['audience', '/v1/models', bearer(await token({ aud: 'CANARY-audience' }))],
    ['signature', '/v1/models', bearer(await token({}, 'CANARY-secret of more than thirty-two characters'))],
    ['algorithm', '/v1/models', bearer(await token({}, SECRET, { alg: 'HS512' }))],
    ['claims', '/v1/models', bearer(await token({ sub: undefined }))],
    ['claims', '/v1/models', bearer(await token({ models: 'CANARY-claim' }))],
    ['claims', '/v1/models', bearer(await token({}, SECRET, { typ: 'id+jwt' }))],
    ['signature', `${ask}&ticket=CANARY.ticket`, {}],
    ['scope', `/streams/${'A'.repeat(22)}?ticket=${valid}`, {}, 'key:a'],
    ['revoked', `${ask}&ticket=${ofGone}`, {}, 'key:gone'],
    ['scope', `/streams/${'A'.repeat(22)}${readTicket}`, {}, 'key:a'],
    ['scope', `${ask}&${readTicket.slice(1)}`, {}, 'key:a'],
  ];
  const refuse = async (path: string, headers: Record<string, string>) => {
    const response = await fetch(url + path, { headers });
    t.equal(response.status, 401, path);
    clock.advance(60_000); // The lines of an address are bounded.
    return ((await response.json()) as { error: { message: string } }).error.message;
  };
  const messages = new Set<string>();
  for (const [reason, path, headers, owner] of cases) {
    const before = lines('credentials_refused').length;
    const message = await refuse(path, headers);
    if (reason !== 'used') messages.add(message);
    const [line, ...more] = lines('credentials_refused').slice(before);
    t.same(more, [], `${reason}: one line`);
    t.match(line, { level: WARN, reason, owner, clientAddress: '127.0.0.1', method: 'GET', reqId: String }, reason);
    t.equal(line?.route, path.startsWith('/streams') ? '/streams/:id' : path.split('?')[0]);
  }
  t.equal(messages.size, 1, 'the caller gets the same answer for every reason');

  app.reloadConfig({ ...app.config, keys: keys.map((one) => (one.name === 'b' ? { ...one, models: ['big'] } : one)) });
  await refuse(`${ask}&ticket=${other}`, {});
  t.match(lines('credentials_refused').at(-1), { reason: 'scope', owner: 'key:b' }, 'a model that its key lost');
  date.advance(60_000);
  await refuse(`${ask}&ticket=${valid}`, {});
  t.match(lines('credentials_refused').at(-1), { reason: 'expired', owner: 'key:a' }, 'a ticket that has expired');
  await refuse(`${ask}&ticket=${ofSoon}`, {});
  t.match(lines('credentials_refused').at(-1), { reason: 'expired', owner: 'key:soon' }, 'a ticket whose key has');
  date.advance(86_400_000);
  await refuse(readUrl, {});
  t.match(lines('credentials_refused').at(-1), { reason: 'expired', owner: 'key:a' }, 'a ticket of a stream');
  t.notMatch(log(), /CANARY/, 'the log has nothing of what was refused');
  for (const name of ['a', 'old', 'gone']) t.notOk(log().includes(sha256(name)), 'nor the hash of a key');
});

t.test('a model that a key may not use is logged with the key, and with a configured name', async (t) => {
  const { url, lines } = await start(t);
  const ask = (model: string) => fetch(`${url}/ask/stream?question=q&model=${model}`, { headers: bearer('b') });
  for (const model of ['big', 'it/CANARY']) t.equal((await ask(model)).status, 403, model);
  const headers = { ...bearer('b'), 'content-type': 'application/json' };
  t.equal((await fetch(`${url}/tickets`, { method: 'POST', headers, body: '{"model":"big"}' })).status, 403);
  const line = { level: WARN, owner: 'key:b', clientAddress: '127.0.0.1' };
  t.match(lines('model_refused'), [
    { ...line, model: 'big' },
    { ...line, model: 'it/*' },
    { ...line, model: 'big' },
  ]);
});

t.test('a flood of refused requests writes a bounded number of lines, and says how many are missing', async (t) => {
  const { app, clock, lines } = await start(t);
  const refuse = (ip: string) => app.inject({ url: '/v1/models', remoteAddress: ip });
  for (let i = 0; i < 30; i++) await refuse('10.0.0.1');
  t.equal(lines('credentials_refused').length, 5, 'lines about one address');
  await refuse('10.0.0.2');
  t.equal(lines('credentials_refused').length, 6, 'another address is not concerned');
  for (let i = 0; i < 300; i++) await refuse(`10.0.1.${i % 250}`);
  t.equal(lines('credentials_refused').length, 100, 'lines in all');
  t.same(lines('lines_suppressed'), [], 'the minute is not over');
  clock.advance(60_000);
  const expected = { level: WARN, event: 'credentials_refused', suppressed: 30 + 1 + 300 - 100 };
  t.match(lines('lines_suppressed'), [expected]);
  await refuse('10.0.0.1');
  t.equal(lines('credentials_refused').length, 101, 'the next minute has lines again');
  clock.advance(60_000);
  t.equal(lines('lines_suppressed').length, 1, 'a minute without suppressed lines is not mentioned');
  for (let i = 0; i < 7; i++) await refuse('10.0.0.1');
  await app.close();
  t.match(lines('lines_suppressed')[1], { suppressed: 2 }, 'a service that stops reports the rest');
});

t.test('a line limit holds few sources, and has a timer only while lines are suppressed', async (t) => {
  const clock = manualClock();
  const suppressed: number[] = [];
  const onSuppressed = (count: number) => suppressed.push(count);
  const limit = createLineLimit({ clock, perSource: 1, total: 3, onSuppressed });
  t.equal(limit.pass('x'), true);
  t.equal(clock.pending, 0, 'nothing is suppressed');
  clock.advance(60_000);
  t.equal(limit.pass('x'), true);
  clock.advance(10_000);
  const passed = ['x', 'y', 'z', 'w', 'x'].map((source) => limit.pass(source));
  t.same(passed, [false, true, true, false, false]);
  t.equal(clock.pending, 1);
  clock.advance(49_999);
  t.same(suppressed, []);
  clock.advance(1);
  t.same(suppressed, [3]);
  t.equal(clock.pending, 0, 'nothing runs while nobody is refused');
  t.equal(limit.pass('x'), true);
  limit.close();
  t.equal(clock.pending, 0);
  t.same(suppressed, [3]);
});

t.test('every cooldown of a provider key is logged', async (t) => {
  const statuses = [401, 429];
  const { app, url, clock, lines } = await start(t, ({ response }) => {
    const status = statuses.shift() ?? 401;
    response.writeHead(status, { 'content-type': 'application/json', 'retry-after': '60' }).end('{}');
  });
  const ask = () => readAll(`${url}/ask/stream?question=q`, { headers: bearer('a') });
  await ask();
  clock.advance(5_000);
  await ask();
  clock.advance(60_000);
  await ask();
  t.match(lines('provider_key_cooldown'), [
    { level: ERROR, provider: 'it', reason: 'credentials', msg: /api key refused by the provider/ },
    { level: INFO, provider: 'it', reason: 'rate_limited' },
    { level: INFO, provider: 'it', reason: 'credentials' },
  ]);
  for (let i = 0; i < 50; i++) app.audit.providerKeyCooldown('it', 'rate_limited', true);
  t.equal(lines('provider_key_cooldown').length, 3 + 9, 'their number is bounded');
  app.audit.providerKeyCooldown('it', 'credentials', true);
  t.equal(lines('provider_key_cooldown').length, 3 + 9 + 1, 'but not that of keys that an operator has to replace');
});

t.test('every change of a circuit breaker is logged, for everybody and for one owner', async (t) => {
  let isFailing = true;
  const { app, url, clock, lines } = await start(t, (call) => {
    if (isFailing) call.response.writeHead(400 + 100).end();
    else completeAnswer('x')(call);
  });
  const ask = async (name: string) => {
    const reading = open(`${url}/ask/stream?question=q`, { headers: bearer(name) });
    let isOver = false;
    void reading.then(({ ended }) => ended).then(() => (isOver = true));
    await until(() => {
      if (!isOver) clock.advance(100); // The wait before a retry.
      return isOver;
    }, 'the question has failed');
  };
  for (let i = 0; i < 5; i++) await ask('a');
  const changes = () => lines('breaker_changed');
  t.match(changes()[0], {
    level: WARN,
    provider: 'it',
    model: 'm',
    from: 'closed',
    to: 'open',
    reason: 'failures',
    owner: 'key:a',
  });
  isFailing = false;
  clock.advance(60_000);
  await ask('a');
  const ofOwner = { level: INFO, provider: 'it', model: 'm', owner: 'key:a' };
  t.match(changes().slice(-2), [
    { ...ofOwner, from: 'open', to: 'half_open', reason: 'probe' },
    { ...ofOwner, from: 'half_open', to: 'closed', reason: 'succeeded' },
  ]);
  isFailing = true;
  const gone = { ...app.config, models: app.config.models.filter(({ name }) => name !== 'small') };
  const before = changes().length;
  const slots = ['a', 'a', 'a', 'b', 'b'];
  for (const name of slots) await ask(name === 'b' ? 'gone' : name);
  const opened = changes().slice(before).at(-1);
  t.match(opened, { level: WARN, to: 'open', from: 'closed' });
  t.equal(opened?.owner, undefined, 'failures of two owners concern everybody');
  app.reloadConfig({
    ...gone,
    defaultModel: 'new',
    models: [{ name: 'new', targets: [{ provider: 'it', model: 'n' }] }],
  } as Config);
  t.match(changes().at(-1), { level: INFO, from: 'open', to: 'closed', reason: 'removed' }, 'a target that is gone');
});

t.test('a reload is logged with the names of what has changed, and without hashes', async (t) => {
  const { app, lines, log } = await start(t);
  const date = manualDate(t);
  const [a, b, old] = app.config.keys as [Config['keys'][0], Config['keys'][0], Config['keys'][0]];
  const soon = new Date(Date.now() + 1_000).toISOString();
  const reload = (changes: object) => {
    app.audit.configReloaded(app.reloadConfig({ ...app.config, ...changes } as Config), app.llm.models);
    return lines('config_reloaded').at(-1) as Line;
  };
  const keys = [a, { ...b, models: ['big'], expiresAt: soon }, old, { name: 'new', sha256: sha256('new') }];
  const models = [
    { name: 'big', targets: [{ provider: 'it', model: 'other' }] },
    { name: 'fresh', targets: [{ provider: 'it', model: 'm' }] },
  ];
  const first = reload({ keys, models });
  t.match(first, {
    level: INFO,
    msg: /^configuration reloaded/,
    keys: 4,
    keysAdded: ['new'],
    keysRemoved: ['gone', 'soon'],
    keysChanged: ['b'],
    modelsAdded: ['fresh'],
    modelsRemoved: ['small'],
    modelsChanged: ['big'],
    jwtChanged: false,
  });
  for (const list of ['keysReplaced', 'keysExpired']) t.notOk(list in first, `${list} is left out`);
  date.advance(1_000);
  const second = reload({ keys: [{ ...a, sha256: sha256('another') }, ...keys.slice(1)], models, jwt: undefined });
  t.match(second, { keysReplaced: ['a'], keysExpired: ['b'], jwtChanged: true });
  t.notOk('keysChanged' in second, 'a new key alone changes no permission');
  t.match(reload({ keys, models }), { keysReplaced: ['a'], jwtChanged: true }, 'each reload is compared with the last');
  app.audit.configRefused(['keys.0.sha256: is missing']);
  t.match(lines('config_refused'), [
    { level: ERROR, problems: ['keys.0.sha256: is missing'], msg: /nothing has changed/ },
  ]);
  for (const name of ['a', 'b', 'new', 'another']) t.notOk(log().includes(sha256(name)), `no hash of ${name}`);

  const many = Array.from({ length: 250 }, (_, i) => ({ name: `k${i}`, sha256: sha256(`k${i}`) }));
  const before = lines('config_reloaded').length;
  reload({ keys: [...keys, ...many], models });
  const parts = lines('config_reloaded').slice(before);
  t.same(
    parts.map(({ keysAdded }) => (keysAdded as string[]).length),
    [100, 100, 50],
    'many names take several lines',
  );
  t.same(
    parts.flatMap(({ keysAdded }) => keysAdded),
    many.map(({ name }) => name),
    'and none is missing',
  );
});

t.test('a reload without changes says so, whatever the spelling of a hash', async (t) => {
  const config = loadConfig({
    CONFIG_FILE: writeConfig(t, `keys: [${key('a')}, ${key('old', ', expiresAt: 2020-01-01')}]`),
  });
  const compare = createChangeTracker(config);
  const keys = config.keys.map((one) => ({ ...one, sha256: one.sha256.toUpperCase() }));
  const { jwtChanged, ...lists } = compare({ ...config, keys });
  t.equal(jwtChanged, false);
  for (const [list, names] of Object.entries(lists)) t.same(names, [], list);
  const expired = { name: 'x', sha256: sha256('x'), expiresAt: '2020-01-01' };
  t.same(compare({ ...config, keys: [...keys, expired] }).keysExpired, ['x'], 'a new key that has expired');
});
