import t from 'tap';
import { bearer } from '../helper.ts';
import { manualDate } from '../manual-date.ts';
import { bareAuth, keyOf } from './bare-auth.ts';

/** API keys, the Authorization header, and routes that need neither. */

const UNAUTHORIZED = {
  status: 401,
  headers: { 'www-authenticate': 'Bearer' },
  error: { code: 'unauthorized', message: 'Send a valid key or token as Authorization: Bearer.' },
};

t.test('a valid key is accepted, with the permissions of the configuration', async (t) => {
  const limits = { models: ['m'], requestsPerMinute: 1, tokensPerMinute: 2, tokensPerDay: 4, maxConcurrent: 3 };
  const keys = [keyOf('a', limits), keyOf('b')];
  const [first] = keys;
  const upper = { ...keyOf('c'), sha256: keyOf('c').sha256.toUpperCase() };
  const { get } = await bareAuth(t, { keys: [...keys, upper] });
  t.same((await get('/api', bearer('a'))).identity, { owner: 'key:a', ...limits });
  t.same((await get('/api', bearer('b'))).identity, { owner: 'key:b' }, 'a key without limits');
  t.same((await get('/api', bearer('c'))).identity, { owner: 'key:c' }, 'a hash in upper case');
  for (const path of ['/ask', '/read', '/streams/s']) {
    t.equal((await get(path, bearer('a'))).identity?.owner, 'key:a', `on ${path}`);
  }
  const invalid: Record<string, Record<string, string>> = {
    'no header': {},
    'an unknown key': bearer('x'),
    'the name of an owner': bearer('key:a'),
    'the hash of a key': bearer(first?.sha256 as string),
    'a key without its last character': bearer(''),
    'a key without Bearer': { authorization: 'a' },
    'another scheme': { authorization: 'Basic a' },
    'two keys': { authorization: 'Bearer a b' },
    'text before the scheme': { authorization: 'x Bearer a' },
    'an empty header': { authorization: '' },
    'a key in the query': {},
  };
  for (const [name, headers] of Object.entries(invalid)) {
    for (const path of ['/api', '/ask', '/read', '/streams/s']) {
      t.match(await get(`${path}?key=a`, headers), UNAUTHORIZED, `${name} on ${path}`);
    }
  }
  t.equal((await get('/api', { authorization: 'bearer a' })).status, 200, 'the scheme in lower case');
  t.equal((await get('/api', { authorization: `Bearer ${'x'.repeat(8_193)}` })).status, 401, 'a key that is too long');
});

t.test('a key is accepted until it expires', async (t) => {
  const date = manualDate(t);
  const { get } = await bareAuth(t, {
    keys: [
      keyOf('a', { expiresAt: new Date(Date.now() + 1_000).toISOString() }),
      keyOf('old', { expiresAt: '2020-01-01' }),
    ],
  });
  t.match(await get('/api', bearer('old')), UNAUTHORIZED, 'a key that has expired');
  date.advance(999);
  t.equal((await get('/api', bearer('a'))).status, 200, 'a millisecond before');
  date.advance(1);
  t.match(await get('/api', bearer('a')), UNAUTHORIZED, 'at that time');
});

t.test('a refused key is named as expired or revoked, and as unknown beyond a bound', async (t) => {
  const many = Array.from({ length: 1_001 }, (_, i) => keyOf(`k${i}`));
  const { get, reload, log } = await bareAuth(t, { keys: [...many, keyOf('a')] });
  const stays = [keyOf('a'), keyOf('old', { expiresAt: '2020-01-01' })];
  reload(stays);
  const refused = async (key: string) => {
    await get('/api', bearer(key));
    const line = log()
      .match(/.*"audit".*/g)
      ?.at(-1) as string;
    const { reason, owner } = JSON.parse(line) as Record<string, unknown>;
    return [reason, owner];
  };
  t.same(await refused('k0'), ['unknown', undefined], 'the one that was removed first');
  t.same(await refused('k1'), ['revoked', 'key:k1']);
  t.same(await refused('k1000'), ['revoked', 'key:k1000']);
  t.same(await refused('old'), ['expired', 'key:old']);
  reload([...stays, keyOf('k1')]);
  t.equal((await get('/api', bearer('k1'))).status, 200, 'a key that is configured again');
  reload([...stays, ...Array.from({ length: 999 }, (_, i) => keyOf(`next${i}`))]);
  reload(stays);
  t.same(await refused('k1'), ['revoked', 'key:k1'], 'and removed again, as if for the first time');
});

t.test('a reload replaces the keys, and cannot open the service', async (t) => {
  const { app, get, reload } = await bareAuth(t, { keys: [keyOf('a'), keyOf('b')] });
  reload([keyOf('b'), keyOf('c')]);
  t.equal(app.auth.required, true);
  t.match(await get('/api', bearer('a')), UNAUTHORIZED, 'a removed key');
  t.equal((await get('/api', bearer('b'))).status, 200, 'a key that stays');
  t.equal((await get('/api', bearer('c'))).status, 200, 'a new key');
  t.throws(() => reload([]), /needs a restart: a service without keys or tokens/, 'the last key cannot be removed');
  t.equal((await get('/api', bearer('b'))).status, 200, 'the keys stay as they were');
  t.match(await get('/api'), UNAUTHORIZED, 'a key is still required');
});

t.test('public routes and unknown paths need no key', async (t) => {
  const { get } = await bareAuth(t, { keys: [keyOf('a')] });
  t.same((await get('/public')).identity, { owner: 'anybody' });
  t.same((await get('/public', bearer('a'))).identity, { owner: 'anybody' }, 'a key has no effect there');
  t.equal((await get('/public', bearer('wrong'))).status, 200, 'nor has an invalid one');
  t.equal((await get('/unknown')).status, 404, 'an unknown path');
});

t.test('without keys everybody is one owner, and any header is ignored', async (t) => {
  const { app, get, log } = await bareAuth(t, { host: '127.0.0.1' });
  t.equal(app.auth.required, false);
  for (const path of ['/api', '/ask', '/read', '/public']) {
    t.same((await get(path)).identity, { owner: 'anybody' }, path);
    t.same((await get(path, bearer('x'))).identity, { owner: 'anybody' }, `${path} with a key`);
  }
  t.notMatch(log(), /no keys configured/, 'loopback needs no warning');
});

for (const [host, isWarned] of [
  ['127.0.0.1', false],
  ['127.1.2.3', false],
  ['localhost', false],
  ['::1', false],
  ['0.0.0.0', true],
  ['::', true],
  ['10.127.0.1', true],
  ['localhost.example', true],
] as const) {
  t.test(`an open service on ${host} ${isWarned ? 'logs a warning' : 'logs nothing'}`, async (t) => {
    const { log, app } = await bareAuth(t, { host });
    await app.ready();
    t.equal(log().includes('no keys configured; everybody who reaches this address can ask'), isWarned);
    const closed = await bareAuth(t, { host, keys: [keyOf('a')] });
    await closed.app.ready();
    t.notMatch(closed.log(), /no keys configured/, 'a service with keys logs nothing');
  });
}

t.test('a route of the API without `config.access` fails the start', async (t) => {
  const { app } = await bareAuth(t, { keys: [keyOf('a')] });
  const start = async () => {
    await app.register(async (scope) => {
      await scope.register((await import('../../plugins/auth/scope.ts')).default);
      scope.get('/open', async () => 'x');
    });
    await app.ready();
  };
  await t.rejects(start(), /route GET \/open declares no config\.access/);
});
