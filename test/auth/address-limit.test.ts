import { SignJWT } from 'jose';
import t from 'tap';
import type { AuthOptions } from '../../plugins/auth/index.ts';
import { bearer } from '../helper.ts';
import { manualDate } from '../manual-date.ts';
import { metricValue } from '../metric-value.ts';
import { type Answer, type BareAuth, bareAuth, keyOf } from './bare-auth.ts';

/** The limit of unauthenticated requests by client address: what counts, who is refused, and who is not. */

const MINUTE_MS = 60_000;
const STREAM = 'S'.repeat(22);
const SECRET = 'a shared secret of more than thirty-two characters';
const JWT: NonNullable<AuthOptions['jwt']> = { issuer: 'i', audience: 'a', secret: SECRET, algorithms: ['HS256'] };
const KEYS = [keyOf('a')];
const EVENTS = { accept: 'text/event-stream' };
const REFUSED = {
  status: 429,
  headers: { 'retry-after': '60' },
  error: { code: 'rate_limited', message: /without valid credentials/ },
};

const tokenOf = (sub: string, secret = SECRET, expires = '5 minutes') =>
  new SignJWT({ sub, iss: 'i', aud: 'a' })
    .setProtectedHeader({ alg: 'HS256' })
    .setExpirationTime(expires)
    .sign(new TextEncoder().encode(secret));

const ticketOf = async ({ app, identify }: BareAuth) =>
  app.auth.createAskTicket(await identify(bearer('a')), undefined).ticket;

/** Sends requests until the address has used up its limit of `perMinute`. */
async function useUp({ get }: BareAuth, perMinute: number, address?: string): Promise<void> {
  for (let i = 0; i < perMinute; i++) await get('/api', {}, address);
}

type Request = (service: BareAuth) => Promise<Answer>;
const request =
  (path: string, headers: Record<string, string> = {}): Request =>
  ({ get }) =>
    get(path, headers);

/** Each kind of request, its status below the limit, and beyond it. Equal ones are not limited. */
const REQUESTS: [name: string, send: Request, below: number, beyond: number][] = [
  ['no credentials', request('/api'), 401, 429],
  ['no credentials for a question', request('/ask'), 401, 429],
  ['an unknown key', request('/api', bearer('wrong')), 401, 429],
  ['another scheme', request('/api', { authorization: 'Basic eDp5' }), 401, 429],
  [
    'a token with another signature',
    async ({ get }) => get('/api', bearer(await tokenOf('x', SECRET + SECRET))),
    401,
    429,
  ],
  ['an expired token', async ({ get }) => get('/api', bearer(await tokenOf('x', SECRET, '2 minutes ago'))), 401, 429],
  ['a forged ticket', request(`/ask?ticket=a.${'b'.repeat(43)}`), 401, 429],
  [
    'a ticket for another route',
    async (service) => service.get(`/streams/${STREAM}?ticket=${await ticketOf(service)}`),
    401,
    429,
  ],
  ['an unknown path', request('/nothing'), 404, 429],
  ['an unknown path with an unknown key', request('/nothing', bearer('wrong')), 404, 429],
  ['a public path of the api scope', request('/public'), 200, 429],
  ['a public path outside', request('/outside'), 200, 429],
  ['an unknown path with a key', request('/nothing', bearer('a')), 404, 404],
  ['a public path with a key', request('/outside', bearer('a')), 200, 200],
  ['a key', request('/api', bearer('a')), 200, 200],
  ['an ask ticket', async (service) => service.get(`/ask?ticket=${await ticketOf(service)}`), 200, 200],
  [
    'a read ticket',
    async ({ app, get, identify }) =>
      get(`/streams/${STREAM}${app.auth.createReadTicketQuery(STREAM, await identify(bearer('a')))}`),
    200,
    200,
  ],
  ['a probe', request('/probe'), 200, 200],
];
for (const [name, send, below, beyond] of REQUESTS) {
  const counts = below !== beyond;
  t.test(`${name} ${counts ? 'counts against' : 'is not affected by'} the limit of the address`, async (t) => {
    manualDate(t);
    const service = await withRoutes(t, 3);
    for (let i = 0; i < 3; i++) t.equal((await send(service)).status, below, 'below the limit');
    const next = await send(service);
    t.equal(next.status, beyond, 'the fourth request');
    if (counts) {
      t.match(next, REFUSED);
      t.equal(next.headers['www-authenticate'], undefined, 'which does not ask for credentials');
    }
    t.equal((await service.get('/api')).status, counts ? 429 : 401, 'a request without credentials afterwards');
    await useUp(service, 3);
    t.equal((await send(service)).status, beyond, 'beyond the limit');
    t.equal(
      (await metricValue(service.app, 'sluice_refusals_total', { reason: 'limit_address' })) > 0,
      true,
      'a metric',
    );
  });
}

/** Adds routes outside the api scope. */
async function withRoutes(t: Parameters<typeof bareAuth>[0], perMinute: number, rest = {}): Promise<BareAuth> {
  const service = await bareAuth(t, { keys: KEYS, jwt: JWT, perMinute, ...rest });
  service.app.get('/outside', async () => ({}));
  service.app.get('/probe', { config: { isProbe: true } }, async () => ({}));
  return service;
}

t.test('the limit is that of one minute and one address', async (t) => {
  const date = manualDate(t);
  const service = await withRoutes(t, 2);
  await useUp(service, 2);
  date.advance(MINUTE_MS - 1_500);
  t.match(await service.get('/api'), { status: 429, headers: { 'retry-after': '2' } }, 'the rest of the minute');
  t.equal((await service.get('/api', {}, '127.0.0.2')).status, 401, 'another address');
  t.equal((await service.get('/api', {}, '::ffff:127.0.0.1')).status, 429, 'the same address, written as IPv6');
  await useUp(service, 2, '2001:db8::1');
  t.equal((await service.get('/api', {}, '2001:db8::ffff:1')).status, 429, 'another address of an IPv6 network');
  t.equal((await service.get('/api', {}, '2001:db8:0:1::1')).status, 401, 'another network');
  date.advance(1_500);
  t.equal((await service.get('/api')).status, 401, 'the next minute');
});

t.test('a limit of 0 is none', async (t) => {
  const service = await withRoutes(t, 0);
  await useUp(service, 50);
  t.equal((await service.get('/api')).status, 401);
  t.equal((await service.get('/nothing')).status, 404);
});

t.test('beyond the limit a token is not verified, unless it was valid before', async (t) => {
  const date = manualDate(t);
  const service = await withRoutes(t, 3);
  const known = await tokenOf('known');
  t.equal((await service.get('/api', bearer(known))).status, 200);
  await useUp(service, 3);
  const fresh = await tokenOf('fresh');
  t.match(await service.get('/api', bearer(fresh)), REFUSED, 'a valid token that is new');
  t.equal((await service.get('/api', bearer(known))).status, 200, 'a token that was valid before');
  t.equal((await service.get('/api', bearer(fresh), '127.0.0.2')).status, 200, 'at another address');
  t.equal((await service.get('/api', bearer(fresh))).status, 200, 'is known from then on');
  service.reload(KEYS, { ...JWT, secret: SECRET.toUpperCase() });
  t.equal((await service.get('/api', bearer(known))).status, 429, 'a token that is no longer valid');
  service.reload(KEYS, JWT);
  t.equal((await service.get('/api', bearer(known))).status, 429, 'has to be verified again');
  date.advance(MINUTE_MS);
  t.equal((await service.get('/api', bearer(known))).status, 200, 'which the next minute allows');
});

t.test('valid tokens use up nothing', async (t) => {
  const service = await withRoutes(t, 3);
  for (let i = 0; i < 10; i++) t.equal((await service.get('/api', bearer(await tokenOf(`user ${i}`)))).status, 200);
  await useUp(service, 3);
  t.equal((await service.get('/api')).status, 429, 'the whole limit is left for failures');
});

t.test('tokens that are verified at the same time do not exceed the limit together', async (t) => {
  const service = await withRoutes(t, 5);
  const good = await Promise.all(Array.from({ length: 30 }, (_, i) => tokenOf(`user ${i}`)));
  const answers = await Promise.all(good.map((token) => service.get('/api', bearer(token))));
  t.equal(answers.filter(({ status }) => status === 200).length, 5, 'of new valid tokens five');
  for (const token of good) t.equal((await service.get('/api', bearer(token))).status, 200, 'later all of them');
  const bad = await tokenOf('x', SECRET.toUpperCase());
  const statuses = await Promise.all(
    Array.from({ length: 30 }, async () => (await service.get('/api', bearer(bad))).status),
  );
  t.equal(statuses.filter((status) => status === 401).length, 5, 'of bad ones five');
  t.equal(statuses.filter((status) => status === 429).length, 25, 'all others are refused');
});

t.test('a token that cannot be verified now does not count', async (t) => {
  const jwt = { issuer: 'i', audience: 'a', jwksUrl: 'http://127.0.0.1:1/keys', algorithms: ['RS256' as const] };
  const service = await bareAuth(t, { keys: KEYS, jwt, perMinute: 3 });
  const token = `${Buffer.from('{"alg":"RS256","kid":"k"}').toString('base64url')}.e30.AA`;
  for (let i = 0; i < 6; i++) t.equal((await service.get('/api', bearer(token))).status, 503, 'the issuer is at fault');
  t.equal((await service.get('/api')).status, 401, 'nothing was counted');
  const asked = await service.get('/ask', { ...EVENTS, ...bearer(token) });
  t.equal(asked.status, 200, 'an EventSource gets an event');
  t.match(JSON.parse(asked.events?.[1]?.data ?? ''), { type: 'error', code: 'overloaded', retryAfter: 5 });
});

t.test('beyond the limit an EventSource gets 401 for what was checked, and an event for what was not', async (t) => {
  const service = await withRoutes(t, 2);
  await useUp(service, 2);
  const checked: Record<string, [path: string, headers: Record<string, string>]> = {
    'no ticket': ['/ask', {}],
    'a forged ticket': [`/ask?ticket=a.${'b'.repeat(43)}`, {}],
    'a forged ticket for a resume': [`/ask?ticket=x&lastEventId=${STREAM}.1`, {}],
    'no read ticket': [`/streams/${STREAM}`, {}],
  };
  for (const [name, [path, headers]] of Object.entries(checked)) {
    const answer = await service.get(path, { ...EVENTS, ...headers });
    t.equal(answer.status, 401, name);
    t.equal(answer.headers['www-authenticate'], 'Bearer', `${name}: www-authenticate`);
    t.equal((await service.get(path, headers)).status, 429, `${name}, without EventSource`);
  }
  const fresh = { ...EVENTS, ...bearer(await tokenOf('fresh')) };
  const asked = await service.get('/ask', fresh);
  t.equal(asked.status, 200, 'a token that is not verified');
  t.match(JSON.parse(asked.events?.[1]?.data ?? ''), {
    type: 'error',
    code: 'rate_limited',
    retryable: true,
    retryAfter: Number,
  });
  const resumed = await service.get(`/ask?lastEventId=${STREAM}.1`, fresh);
  t.match(resumed, { status: 200, events: [{ lastEventId: `${STREAM}.1` }] }, 'for a resume, only the opening block');
  t.equal(resumed.events?.length, 1);
  t.equal((await service.get('/ask?lastEventId=x.1', fresh)).status, 429, 'a resume from no position of a stream');
  t.equal((await service.get('/ask/1', fresh)).status, 429, 'an answer in events of another protocol');
  t.equal((await service.get('/api', fresh)).status, 429, 'a route that is not for an EventSource');
});

t.test('behind a trusted gateway the limit is that of the address that the gateway reports', async (t) => {
  const service = await withRoutes(t, 2, { hops: 1 });
  const from = (forwarded: string) => service.get('/api', { 'x-forwarded-for': forwarded });
  for (let i = 0; i < 2; i++) await from('203.0.113.7');
  t.equal((await from('203.0.113.7')).status, 429, 'the client');
  t.equal((await from('203.0.113.8')).status, 401, 'another client of the gateway');
  for (let i = 0; i < 3; i++)
    t.equal((await from(`198.51.100.${i}, 203.0.113.7`)).status, 429, 'an invented address before it');
  t.equal((await from('203.0.113.7, 203.0.113.9')).status, 401, 'nobody uses up the limit of another client');
  for (let i = 0; i < 2; i++) await from(`invented ${i}`);
  t.equal((await from('invented again')).status, 429, 'texts that are no addresses count as the gateway');
  t.notMatch(service.log(), /TRUST_PROXY/, 'no warning');
});

t.test('one warning says that a gateway is not trusted, once its clients are refused', async (t) => {
  const warnings = ({ log }: BareAuth) => log().split('set TRUST_PROXY').length - 1;
  for (const headers of [{ 'x-forwarded-for': '203.0.113.7' }, { forwarded: 'for=203.0.113.7' }]) {
    const service = await withRoutes(t, 2);
    const send = (i: number) =>
      service.get('/api', Object.fromEntries(Object.entries(headers).map(([k, v]) => [k, v + i])));
    for (let i = 0; i < 2; i++) t.equal((await send(i)).status, 401, 'below the limit');
    t.equal(warnings(service), 0, 'no warning yet');
    for (let i = 0; i < 3; i++) t.equal((await send(i)).status, 429, 'its clients share one limit');
    t.equal(warnings(service), 1, 'one warning');
    t.notMatch(service.log(), /203\.0\.113/, 'without the address that the client sent');
  }
  const direct = await withRoutes(t, 2);
  await useUp(direct, 5);
  t.equal(warnings(direct), 0, 'none for a client that forwards nobody');
});

t.test('a service without keys limits public and unknown paths, and nothing else', async (t) => {
  const service = await withRoutes(t, 2, { keys: [], jwt: undefined });
  for (let i = 0; i < 5; i++) t.equal((await service.get('/api')).status, 200, 'the API');
  for (let i = 0; i < 2; i++) t.equal((await service.get('/nothing')).status, 404, 'below the limit');
  t.equal((await service.get('/outside')).status, 429, 'a public path');
  t.equal((await service.get('/api')).status, 200, 'the API is not affected');
});
