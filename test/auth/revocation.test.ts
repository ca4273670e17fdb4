import { SignJWT } from 'jose';
import t from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import type { AuthOptions } from '../../plugins/auth/index.ts';
import { type CredentialSettings, createCredentials, EXPIRY_CHECK_MS } from '../../plugins/auth/revocation.ts';
import { bearer } from '../helper.ts';
import { refusal } from '../limits/bare-limits.ts';
import { manualClock } from '../manual-clock.ts';
import { manualDate } from '../manual-date.ts';
import { type BareAuth, bareAuth, keyOf, LONGEST_ANSWER_MS, STREAM_TTL_MS } from './bare-auth.ts';

/** Credentials that end: which ones a reload, the time and a new issuer revoke, and what becomes of their tickets. */

const NEVER = Number.POSITIVE_INFINITY;
const STREAM = 'S'.repeat(22);

function setUp() {
  const clock = manualClock();
  const errors: unknown[] = [];
  const revoked: unknown[] = [];
  const log = { info: (fields: object) => revoked.push(fields), error: (fields: object) => errors.push(fields) };
  const credentials = createCredentials({ clock, now: clock.now, log: log as never });
  const settings = (id: string, expires = NEVER): CredentialSettings => ({ id, mark: id, name: `key:${id}`, expires });
  /** Accepts the given credentials. */
  const accept = (...list: CredentialSettings[]) => {
    const prepared = credentials.prepare(list);
    prepared.apply();
    return prepared;
  };
  return { clock, errors, revoked, credentials, settings, accept };
}

t.test('a credential is revoked when it is no longer listed, and only then', (t) => {
  const { accept, settings, revoked, clock } = setUp();
  const first = accept(settings('a'), settings('b'));
  const [a, b] = [first.get('a'), first.get('b')];
  const ended: string[] = [];
  a.onRevoked(() => ended.push('a'));
  a.onRevoked(() => ended.push('a again'));
  b.onRevoked(() => ended.push('b'));
  const remove = b.onRevoked(() => ended.push('b, removed'));
  remove();
  t.equal(accept(settings('a'), settings('b')).get('a'), a, 'it is the same credential after a reload');
  t.same([a.isRevoked, ended], [false, []], 'and nothing ends');
  accept(settings('b'));
  t.same([a.isRevoked, b.isRevoked], [true, false]);
  t.same(ended, ['a', 'a again'], 'each listener is called once');
  t.same(revoked, [{ owner: 'key:a' }], 'the log names the credential');
  a.onRevoked(() => ended.push('late'));
  t.equal(ended.at(-1), 'late', 'a listener that comes later is called immediately');
  const again = accept(settings('a')).get('a');
  t.same([again === a, again.isRevoked, a.isRevoked], [false, false, true], 'one that is listed again is another one');
  t.same(ended.slice(3), ['b']);
  accept();
  t.same(revoked.length, 2, 'one that nobody uses is not logged');
  t.equal(clock.pending, 0, 'no timer is set for credentials that do not expire');
  t.end();
});

t.test('what is prepared and not applied revokes nothing', (t) => {
  const { accept, settings, credentials } = setUp();
  const a = accept(settings('a')).get('a');
  let ended = 0;
  a.onRevoked(() => (ended += 1));
  credentials.prepare([settings('b')]);
  credentials.prepare([settings('a', 0)]);
  t.same([a.isRevoked, ended], [false, 0]);
  t.end();
});

t.test('a credential in use ends soon after it expires, by the wall clock', (t) => {
  const { accept, settings, clock, revoked } = setUp();
  const first = accept(settings('a', 10_000), settings('b', 20_000), settings('c'));
  const ended: string[] = [];
  for (const id of ['a', 'b', 'c']) first.get(id).onRevoked(() => ended.push(id));
  t.equal(clock.pending, 1, 'one timer serves all');
  clock.advance(9_999);
  t.same(ended, [], 'before the expiry');
  clock.advance(1 + EXPIRY_CHECK_MS);
  t.same(ended, ['a'], 'after it');
  t.equal(first.get('a').isRevoked, true);
  accept(settings('a', 30_000), settings('b', 20_000), settings('c'));
  t.equal(first.get('a').isRevoked, false, 'a later expiry makes it valid again');
  first.get('a').onRevoked(() => ended.push('a again'));
  accept(settings('a', clock.now()), settings('b', 20_000), settings('c'));
  t.same(ended, ['a', 'a again'], 'an expiry that a reload moves into the past ends it immediately');
  clock.advance(20_000);
  t.same(ended, ['a', 'a again', 'b']);
  t.equal(clock.pending, 0, 'no timer remains when nothing in use can expire');
  t.equal(revoked.length, 3);
  t.end();
});

t.test('a timer is set only while a credential that expires is in use, and not after the end of the service', (t) => {
  const { accept, settings, clock, credentials } = setUp();
  const first = accept(settings('a', 10_000), settings('b'));
  t.equal(clock.pending, 0, 'nobody uses it');
  first.get('b').onRevoked(() => {});
  t.equal(clock.pending, 0, 'the one in use does not expire');
  accept(settings('a', 10_000), settings('b', 10_000));
  t.equal(clock.pending, 1, 'it gets an expiry');
  const remove = first.get('a').onRevoked(() => {});
  accept(settings('a', 10_000), settings('b'));
  t.equal(clock.pending, 1, 'the other one is in use');
  remove();
  clock.advance(EXPIRY_CHECK_MS);
  t.equal(clock.pending, 0, 'it is no longer in use');
  first.get('a').onRevoked(() => {});
  credentials.close();
  t.equal(clock.pending, 0, 'the service ends');
  first.get('a').onRevoked(() => {});
  accept(settings('a', 10_000));
  t.equal(clock.pending, 0, 'and sets no other timer');
  t.end();
});

t.test('a listener that throws breaks neither the reload nor the timer, and others are called', (t) => {
  const { accept, settings, clock, errors } = setUp();
  const fail = () => {
    throw new Error('a listener fails');
  };
  const first = accept(settings('a'), settings('b', 1_000));
  const ended: string[] = [];
  for (const id of ['a', 'b']) {
    first.get(id).onRevoked(fail);
    first.get(id).onRevoked(() => ended.push(id));
  }
  accept(settings('b', 1_000));
  t.same(ended, ['a']);
  clock.advance(1_000 + EXPIRY_CHECK_MS);
  t.same(ended, ['a', 'b']);
  t.equal(errors.length, 2, 'the errors are logged');
  t.end();
});

t.test('a listener may add and remove listeners while it is called', (t) => {
  const { accept, settings } = setUp();
  const a = accept(settings('a')).get('a');
  const ended: string[] = [];
  a.onRevoked(() => {
    remove();
    a.onRevoked(() => ended.push('added'));
  });
  const remove = a.onRevoked(() => ended.push('removed'));
  accept();
  t.equal(ended.filter((one) => one === 'added').length, 1, 'one that is added is called once');
  t.end();
});

/** Reloads, and returns which of the callers were revoked. */
async function revokedBy(
  service: BareAuth,
  callers: Readonly<Record<string, Identity>>,
  ...next: Parameters<BareAuth['reload']>
): Promise<string[]> {
  const ended: string[] = [];
  const removers = Object.entries(callers).map(([name, { credential }]) =>
    credential?.onRevoked(() => ended.push(name)),
  );
  service.reload(...next);
  for (const remove of removers) remove?.();
  return ended;
}

t.test('a reload revokes keys that are removed, replaced or expired, and no others', async (t) => {
  const past = '2020-01-01T00:00:00Z';
  const future = '2120-01-01T00:00:00Z';
  const other = keyOf('other').sha256;
  for (const [what, next, expected] of [
    ['nothing has changed', [keyOf('a'), keyOf('b')], []],
    ['a key is removed', [keyOf('b')], ['a']],
    ['a key is replaced under its name', [{ ...keyOf('a'), sha256: other }, keyOf('b')], ['a']],
    [
      'two keys swap their names',
      [
        { ...keyOf('a'), sha256: keyOf('b').sha256 },
        { ...keyOf('b'), sha256: keyOf('a').sha256 },
      ],
      [],
    ],
    [
      'a key is replaced, and is listed under another name',
      [{ ...keyOf('a'), sha256: other }, { ...keyOf('a'), name: 'a-old' }, keyOf('b')],
      [],
    ],
    ['a key expires', [keyOf('a', { expiresAt: past }), keyOf('b', { expiresAt: future })], ['a']],
    ['a hash is written in upper case', [{ ...keyOf('a'), sha256: keyOf('a').sha256.toUpperCase() }, keyOf('b')], []],
    [
      'limits and models change',
      [
        keyOf('a', { requestsPerMinute: 1, tokensPerMinute: 1, maxConcurrent: 1, models: ['x'] }),
        keyOf('b', { models: [] }),
      ],
      [],
    ],
    ['a key is added', [keyOf('c'), keyOf('a'), keyOf('b')], []],
  ] as const) {
    const service = await bareAuth(t, { keys: [keyOf('a'), keyOf('b')] });
    const callers = { a: await service.identify(bearer('a')), b: await service.identify(bearer('b')) };
    t.same(await revokedBy(service, callers, next as unknown as AuthOptions['keys']), expected, what);
  }
});

t.test('a reload that is refused revokes nothing', async (t) => {
  const service = await bareAuth(t, { keys: [keyOf('a')] });
  const { credential } = await service.identify(bearer('a'));
  let ended = 0;
  credential?.onRevoked(() => (ended += 1));
  t.throws(() => service.reload([]), { name: 'RestartRequired' });
  t.same([credential?.isRevoked, ended], [false, 0]);
  t.equal((await service.get('/api', bearer('a'))).status, 200, 'the key is still accepted');
});

t.test('a key ends while it is in use when the clock passes its expiresAt', async (t) => {
  const date = manualDate(t);
  const time = manualClock();
  const expiresAt = new Date(Date.now() + 5_000).toISOString();
  const service = await bareAuth(t, { keys: [keyOf('a', { expiresAt }), keyOf('b')], time });
  let ended = 0;
  (await service.identify(bearer('a'))).credential?.onRevoked(() => (ended += 1));
  date.advance(4_999);
  time.advance(4_999);
  t.equal(ended, 0, 'before it');
  date.advance(1);
  time.advance(EXPIRY_CHECK_MS);
  t.equal(ended, 1, 'after it');
  t.match(service.log(), /"owner":"key:a","msg":"credential revoked/);
});

t.test('callers of an open service end when it gets its first keys', async (t) => {
  const service = await bareAuth(t);
  const anybody = await service.identify({});
  t.equal(
    service.app.auth.findCredential(anybody.credential?.mark),
    anybody.credential,
    'replicas know their credential',
  );
  t.same(await revokedBy(service, { anybody }, [keyOf('a')]), ['anybody']);
  t.equal(service.app.auth.findCredential(anybody.credential?.mark), undefined);
});

t.test('a credential is found by its mark as long as it is accepted, whatever the name of the key', async (t) => {
  const service = await bareAuth(t, { keys: [keyOf('a')], jwt: JWT });
  const { app } = service;
  const a = (await service.identify(bearer('a'))).credential;
  const token = (await service.identify(bearer(await sign()))).credential;
  t.equal(app.auth.findCredential(a?.mark), a);
  t.equal(app.auth.findCredential(token?.mark), token);
  t.equal(app.auth.findCredential('x'), undefined, 'an unknown mark');
  t.equal(app.auth.findCredential(undefined), undefined, 'no mark');
  t.equal(app.auth.findCredential(''), undefined, 'the mark of an open service');
  service.reload([{ ...keyOf('a'), name: 'b' }], JWT);
  t.equal(app.auth.findCredential(a?.mark), a, 'a renamed key');
  service.reload([keyOf('c')]);
  t.same([app.auth.findCredential(a?.mark), app.auth.findCredential(token?.mark)], [undefined, undefined], 'removed');
});

type Jwt = NonNullable<AuthOptions['jwt']>;

const SECRET = 'a shared secret of more than thirty-two characters';
const JWT: Jwt = { issuer: 'https://issuer.example', audience: 'sluice', secret: SECRET, algorithms: ['HS256'] };
const TOKEN_MS = 120_000;
/** Tolerated difference of clocks. */
const TOLERANCE_MS = 30_000;

/** Signs a token that is valid for two minutes. */
const sign = (claims: Record<string, unknown> = {}) =>
  new SignJWT({
    iss: JWT.issuer,
    aud: JWT.audience,
    sub: 'u',
    exp: Math.floor((Date.now() + TOKEN_MS) / 1_000),
    ...claims,
  })
    .setProtectedHeader({ alg: 'HS256' })
    .sign(new TextEncoder().encode(SECRET));

t.test('a reload revokes tokens with their issuer, audience or secret, and with the section `jwt`', async (t) => {
  const byUrl: Jwt = {
    issuer: JWT.issuer,
    audience: JWT.audience,
    jwksUrl: 'https://a.example',
    algorithms: ['RS256'],
  };
  for (const [what, next, expected] of [
    ['nothing has changed', JWT, []],
    ['other algorithms', { ...JWT, algorithms: ['HS256', 'HS512'] }, []],
    ['another issuer', { ...JWT, issuer: 'https://other.example' }, ['token']],
    ['another audience', { ...JWT, audience: 'other' }, ['token']],
    ['another secret', { ...JWT, secret: `${SECRET}.` }, ['token']],
    ['a key set instead of a secret', byUrl, ['token']],
    ['no tokens any more', undefined, ['token']],
  ] as const) {
    const service = await bareAuth(t, { keys: [keyOf('a')], jwt: JWT });
    const callers = { a: await service.identify(bearer('a')), token: await service.identify(bearer(await sign())) };
    t.same(await revokedBy(service, callers, [keyOf('a')], next as Jwt | undefined), expected, what);
  }
});

const statuses = async ({ app, get }: BareAuth, identity: Identity, ticket: string) => [
  (await get(`/ask?ticket=${ticket}`)).status,
  (await get(`/ask?ticket=${ticket}&lastEventId=x.1`)).status,
  (await get(`/streams/${STREAM}${app.auth.createReadTicketQuery(STREAM, identity)}`)).status,
];

t.test('a ticket of a token carries its claims, if they are few enough', async (t) => {
  const service = await bareAuth(t, { keys: [keyOf('a')], jwt: JWT });
  const limits = { models: ['small', 'big'], tokensPerMinute: 9, maxConcurrent: 2 };
  const identity = await service.identify(bearer(await sign(limits)));
  const { owner } = identity;
  const ask = async (who: Identity, model?: string) =>
    service.get(`/ask?ticket=${service.app.auth.createAskTicket(who, { model }).ticket}`);
  const [body = ''] = service.app.auth.createAskTicket(identity).ticket.split('.');
  const { claims } = JSON.parse(Buffer.from(body, 'base64url').toString()) as { claims: object };
  t.same(Object.keys(claims).sort(), ['maxConcurrent', 'models', 'owner', 'tokenExpires', 'tokensPerMinute']);
  t.match((await ask(identity)).identity, { owner, ...limits, resumeOnly: false }, 'its models and limits');
  t.same((await ask(identity, 'big')).identity?.models, ['big'], 'and one model of them');
  t.equal((await ask({ ...identity, models: ['small'] }, 'big')).status, 401, 'a model that the token does not allow');
  const query = service.app.auth.createReadTicketQuery(STREAM, identity);
  t.match(await service.get(`/streams/${STREAM}${query}`), { status: 200, identity: { owner } }, 'a read ticket');
  const models = Array.from({ length: 400 }, (_, i) => `model-${i}`);
  t.match(
    await refusal((async () => service.app.auth.createAskTicket({ ...identity, models }))()),
    { statusCode: 400, message: 'The ticket would be too long: this token has too many claims.' },
    'too many claims',
  );
  const key = { ...(await service.identify(bearer('a'))), models };
  t.equal((await ask(key)).status, 200, 'a key may have any number of models');
});

t.test('a ticket of a token ends with the token, and so does every ticket that comes from it', async (t) => {
  const date = manualDate(t);
  const service = await bareAuth(t, { jwt: JWT });
  const { auth } = service.app;
  const token = await service.identify(bearer(await sign()));
  date.advance(TOKEN_MS - 1_000);
  const { ticket, expiresAt } = auth.createAskTicket(token, undefined);
  t.ok(expiresAt.getTime() <= Date.now() + 1_000 + TOLERANCE_MS, 'a ticket expires with its token');
  const asked = (await service.get(`/ask?ticket=${ticket}`)).identity as Identity;
  const byTicket = { ...asked, credential: token.credential };
  const readOf = (identity: Identity) => `/streams/${STREAM}${auth.createReadTicketQuery(STREAM, identity)}`;
  const read = readOf(byTicket);
  const again = readOf({ ...((await service.get(read)).identity as Identity), credential: token.credential });
  const all = async () => [
    (await service.get(`/ask?ticket=${ticket}`)).status,
    (await service.get(`/ask?ticket=${ticket}&lastEventId=x.1`)).status,
    (await service.get(read)).status,
    (await service.get(again)).status,
  ];
  t.same(await all(), [200, 200, 200, 200]);
  date.advance(TOLERANCE_MS - 1_000);
  t.same(await all(), [200, 200, 200, 200], 'within the tolerance for clocks');
  date.advance(2_000);
  t.same(await all(), [401, 401, 401, 401], 'after it');
  t.ok(LONGEST_ANSWER_MS + STREAM_TTL_MS > TOKEN_MS + TOLERANCE_MS, 'a ticket of a key would still read');
});

t.test('a token that is valid for ever has tickets that expire as those of keys do', async (t) => {
  const date = manualDate(t);
  const service = await bareAuth(t, { jwt: JWT });
  const identity = await service.identify(bearer(await sign({ exp: 1e300 })));
  const { ticket } = service.app.auth.createAskTicket(identity);
  const read = `/streams/${STREAM}${service.app.auth.createReadTicketQuery(STREAM, identity)}`;
  date.advance(59_999);
  t.equal((await service.get(`/ask?ticket=${ticket}`)).status, 200);
  date.advance(LONGEST_ANSWER_MS + STREAM_TTL_MS - 60_000);
  t.equal((await service.get(read)).status, 200);
  date.advance(1);
  t.equal((await service.get(read)).status, 401);
});

t.test('a ticket of a token ends when tokens of its issuer are no longer accepted', async (t) => {
  for (const [what, next] of [
    ['another issuer', { ...JWT, issuer: 'https://other.example' }],
    ['another audience', { ...JWT, audience: 'other' }],
    ['another secret', { ...JWT, secret: `${SECRET}.` }],
    ['no tokens', undefined],
  ] as const) {
    const service = await bareAuth(t, { keys: [keyOf('a')], jwt: JWT });
    const identity = await service.identify(bearer(await sign()));
    const { ticket } = service.app.auth.createAskTicket(identity);
    t.same(await statuses(service, identity, ticket), [200, 200, 200], `${what}: before the reload`);
    service.reload([keyOf('a')], next as Jwt | undefined);
    t.same(await statuses(service, identity, ticket), [401, 401, 401], `${what}: after the reload`);
    service.reload([keyOf('a')], { ...JWT, algorithms: ['HS256', 'HS384'] });
    t.same(await statuses(service, identity, ticket), [200, 200, 200], `${what}: accepted again`);
  }
});

t.test('a ticket that a request gets after its key was replaced is not valid for the new key', async (t) => {
  const service = await bareAuth(t, { keys: [keyOf('a')] });
  const identity = await service.identify(bearer('a'));
  service.reload([{ ...keyOf('a'), sha256: keyOf('other').sha256 }]);
  const { ticket } = service.app.auth.createAskTicket(identity);
  t.same(await statuses(service, identity, ticket), [401, 401, 401]);
});
