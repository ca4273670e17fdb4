import { SignJWT } from 'jose';
import t from 'tap';
import type { AuthOptions } from '../../plugins/auth/index.ts';
import { bearer } from '../helper.ts';
import { bareAuth, keyOf } from './bare-auth.ts';

/** Default limits: of keys, of tokens with and without tickets, and of callers of a service without keys. */

const SECRET = 'a shared secret of more than thirty-two characters';
const STREAM = 'S'.repeat(22);
const JWT: NonNullable<AuthOptions['jwt']> = { issuer: 'i', audience: 'a', secret: SECRET, algorithms: ['HS256'] };
const LIMITS = { requestsPerMinute: 10, tokensPerMinute: 100, tokensPerDay: 5_000, maxConcurrent: 1 };

const tokenOf = (claims: Record<string, unknown> = {}) =>
  new SignJWT({ sub: 'u', iss: 'i', aud: 'a', ...claims })
    .setProtectedHeader({ alg: 'HS256' })
    .setExpirationTime('5 minutes')
    .sign(new TextEncoder().encode(SECRET));

/** Returns the limits and models of an identity. */
function allowed(identity: object | undefined): Record<string, unknown> {
  const names = ['models', 'requestsPerMinute', 'tokensPerMinute', 'tokensPerDay', 'maxConcurrent'];
  return Object.fromEntries(Object.entries(identity ?? {}).filter(([name]) => names.includes(name)));
}

t.test('keyDefaults apply to each setting that a key does not have, as they are now', async (t) => {
  const keys = [keyOf('plain'), keyOf('own', { requestsPerMinute: 500, models: ['big'] })];
  const service = await bareAuth(t, { keys, keyDefaults: { ...LIMITS, models: ['small'] } });
  const of = async (key: string) => allowed((await service.get('/api', bearer(key))).identity);
  t.same(await of('plain'), { ...LIMITS, models: ['small'] }, 'a key without limits');
  t.same(await of('own'), { ...LIMITS, requestsPerMinute: 500, models: ['big'] }, 'what a key has takes precedence');

  const plain = await service.identify(bearer('plain'));
  const { ticket } = service.app.auth.createAskTicket(plain, undefined);
  const read = `/streams/${STREAM}${service.app.auth.createReadTicketQuery(STREAM, plain)}`;
  const ofTickets = async () => [
    allowed((await service.get(`/ask?ticket=${ticket}`)).identity),
    allowed((await service.get(read)).identity),
  ];
  t.same(await ofTickets(), Array(2).fill({ ...LIMITS, models: ['small'] }), 'tickets of a key');
  service.reload(keys, undefined, { keyDefaults: { maxConcurrent: 7 } });
  t.same(await of('plain'), { maxConcurrent: 7 }, 'after a reload');
  t.same(await of('own'), { maxConcurrent: 7, requestsPerMinute: 500, models: ['big'] });
  t.same(await ofTickets(), Array(2).fill({ maxConcurrent: 7 }), 'tickets of before');
  service.reload(keys);
  t.same(await of('plain'), {}, 'without defaults there are no limits');
});

t.test('jwt.defaults apply to each claim that a token does not have', async (t) => {
  const jwt = { ...JWT, defaults: { ...LIMITS, models: ['small'] } };
  const service = await bareAuth(t, { jwt, keys: [keyOf('a')] });
  const of = async (token: string) => allowed((await service.get('/api', bearer(token))).identity);
  t.same(await of(await tokenOf()), { ...LIMITS, models: ['small'] }, 'a token without claims');
  const claims = { requestsPerMinute: 500, models: [] };
  t.same(await of(await tokenOf(claims)), { ...LIMITS, ...claims }, 'a claim takes precedence, an empty list too');
  t.same(await of('a'), {}, 'not to keys');
  const token = await tokenOf();
  service.reload([keyOf('a')], { ...JWT, defaults: { maxConcurrent: 7 } });
  t.same(await of(token), { maxConcurrent: 7 }, 'after a reload');
  service.reload([keyOf('a')], JWT);
  t.same(await of(token), {}, 'without defaults there are no limits');
});

t.test('tickets of a token have the defaults of their use, not those of their signing', async (t) => {
  const service = await bareAuth(t, { jwt: { ...JWT, defaults: { ...LIMITS, models: ['small', 'big'] } } });
  const identity = await service.identify(bearer(await tokenOf({ tokensPerMinute: 900 })));
  const ask = `/ask?ticket=${service.app.auth.createAskTicket(identity).ticket}`;
  const forBig = `/ask?ticket=${service.app.auth.createAskTicket(identity, { model: 'big' }).ticket}`;
  const read = `/streams/${STREAM}${service.app.auth.createReadTicketQuery(STREAM, identity)}`;
  const of = async (path: string) => allowed((await service.get(path)).identity);
  t.same(await of(ask), { ...LIMITS, tokensPerMinute: 900, models: ['small', 'big'] }, 'the claim and the defaults');
  t.same(await of(forBig), { ...LIMITS, tokensPerMinute: 900, models: ['big'] }, 'for one model');
  t.same(await of(read), { ...LIMITS, models: ['small', 'big'] }, 'a read ticket');

  service.reload([], { ...JWT, defaults: { requestsPerMinute: 3, models: ['small'] } });
  t.same(await of(ask), { requestsPerMinute: 3, tokensPerMinute: 900, models: ['small'] }, 'after a reload');
  t.same(await of(read), { requestsPerMinute: 3, models: ['small'] }, 'a read ticket');
  t.equal((await service.get(forBig)).status, 401, 'a model that the defaults no longer have');
  service.reload([], JWT);
  t.same(await of(ask), { tokensPerMinute: 900 }, 'the claim alone');
});

t.test('limits of a service without keys count by address; its streams have one owner', async (t) => {
  const service = await bareAuth(t, { anonymous: LIMITS, hops: 1 });
  const of = async (forwarded: string, path = '/api') =>
    (await service.get(path, { 'x-forwarded-for': forwarded })).identity;
  t.same(await of('203.0.113.7'), { owner: 'anybody', payer: 'address:203.0.113.7', ...LIMITS });
  t.same(
    await of('198.51.100.1, 203.0.113.7'),
    await of('203.0.113.7'),
    'an invented address before that of the gateway',
  );
  t.equal((await of('2001:db8::1', '/ask'))?.payer, 'address:2001:db8:0:0::/64', 'a network of IPv6');
  t.equal((await of('invented'))?.payer, 'address:127.0.0.1', 'a text that is no address counts as the gateway');
  t.same(await of('203.0.113.7', '/public'), { owner: 'anybody' }, 'a public path has no limits of its own');
  service.reload([], undefined, { anonymous: { maxConcurrent: 9 } });
  t.same(await of('203.0.113.7'), { owner: 'anybody', payer: 'address:203.0.113.7', maxConcurrent: 9 }, 'a reload');
  service.reload([]);
  t.same(await of('203.0.113.7'), { owner: 'anybody' }, 'without the block there are no limits');
  service.reload([keyOf('a')]);
  t.equal((await service.get('/api')).status, 401, 'with keys nobody is anonymous');
});
