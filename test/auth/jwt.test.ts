import { createHmac, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, SignJWT } from 'jose';
import t, { type Test } from 'tap';
import type { AuthOptions } from '../../plugins/auth/index.ts';
import { bearer } from '../helper.ts';
import { type BareAuth, bareAuth, keyOf } from './bare-auth.ts';

/** JSON web tokens: which are accepted, and what their claims allow. */

type Claims = Record<string, unknown>;
type Jwt = NonNullable<AuthOptions['jwt']>;

const SECRET = 'a shared secret of more than thirty-two characters';
const ISSUER = { issuer: 'https://issuer.example', audience: 'sluice' };
const BY_SECRET: Jwt = { ...ISSUER, secret: SECRET, algorithms: ['HS256'] };

const seconds = () => Math.floor(Date.now() / 1000);
const claims = (): Claims => ({
  iss: ISSUER.issuer,
  aud: ISSUER.audience,
  sub: 'user@example.com',
  exp: seconds() + 60,
});

const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const encoded = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
const sign = (payload: Claims, header: Record<string, unknown>, key: Uint8Array | KeyObject) =>
  new SignJWT(payload).setProtectedHeader({ alg: 'HS256', ...header }).sign(key as never);
const bytes = (text: string) => new TextEncoder().encode(text);
/** Signs with the shared secret. */
const hs = (changes: Claims = {}, header = {}) => sign({ ...claims(), ...changes }, header, bytes(SECRET));
/** Signs with the private key. */
const rs = (changes: Claims = {}, header = {}) =>
  sign({ ...claims(), ...changes }, { alg: 'RS256', kid: 'k1', ...header }, privateKey);

const statusOf = async ({ get }: BareAuth, token: string) => (await get('/api', bearer(token))).status;
const identityOf = async ({ get }: BareAuth, token: string) => (await get('/api', bearer(token))).identity;

/** Starts an issuer that answers requests for its key set with `listener`, and returns the settings for it. */
async function startIssuer(t: Test, listener: RequestListener): Promise<{ jwt: Jwt; requests: () => number }> {
  let requests = 0;
  const server = createServer((request, response) => {
    requests += 1;
    listener(request, response);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const jwksUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/keys`;
  return { jwt: { ...ISSUER, jwksUrl, algorithms: ['RS256'] }, requests: () => requests };
}

async function startRsaIssuer(t: Test) {
  const jwk = { ...(await exportJWK(publicKey)), kid: 'k1', alg: 'RS256', use: 'sig' };
  return startIssuer(t, (_, response) => {
    response.setHeader('content-type', 'application/json').end(JSON.stringify({ keys: [jwk] }));
  });
}

t.test('tokens that are signed with the shared secret', async (t) => {
  const service = await bareAuth(t, { jwt: BY_SECRET, keys: [keyOf('a')] });
  t.equal(service.app.auth.required, true);
  t.equal(await statusOf(service, await hs()), 200, 'a valid token');
  for (const typ of ['JWT', 'jwt', 'at+jwt', 'AT+JWT']) {
    t.equal(await statusOf(service, await hs({}, { typ })), 200, `the type ${typ}`);
  }
  t.equal(await statusOf(service, await hs({ aud: ['other', 'sluice'] })), 200, 'one of two audiences');
  t.equal(await statusOf(service, await hs({ exp: seconds() - 20 })), 200, 'expired within the tolerance of 30 s');
  t.equal(await statusOf(service, await hs({ nbf: seconds() + 20 })), 200, 'valid within the tolerance of 30 s');
  t.equal((await identityOf(service, 'a'))?.owner, 'key:a', 'a key is accepted beside tokens');
  const invalid: Record<string, string> = {
    'another issuer': await hs({ iss: 'https://evil.example' }),
    'no issuer': await hs({ iss: undefined }),
    'another audience': await hs({ aud: 'other' }),
    'no audience': await hs({ aud: undefined }),
    'an id token': await hs({}, { typ: 'id+jwt' }),
    'a type that contains jwt': await hs({}, { typ: 'xat+jwt' }),
    'a type that begins with jwt': await hs({}, { typ: 'jwt+x' }),
    'no exp': await hs({ exp: undefined }),
    expired: await hs({ exp: seconds() - 40 }),
    'not valid yet': await hs({ nbf: seconds() + 40 }),
    'no subject': await hs({ sub: undefined }),
    'an unknown crit': `${encoded({ alg: 'HS256', crit: ['x'], x: 1 })}.${(await hs()).split('.').slice(1).join('.')}`,
    'another algorithm': await sign(claims(), { alg: 'HS512' }, bytes(SECRET.repeat(2))),
    'another secret': await sign(claims(), {}, bytes('x'.repeat(40))),
    'no algorithm': `${encoded({ alg: 'none' })}.${encoded(claims())}.`,
    'a changed claim': (await hs()).replace(/\.(.*)\./, `.${encoded({ ...claims(), sub: 'admin' })}.`),
    'models that are not a list': await hs({ models: 'small' }),
    'models that are not strings': await hs({ models: ['small', 1] }),
    'models that are null': await hs({ models: null }),
    'a limit of 0': await hs({ requestsPerMinute: 0 }),
    'a negative limit': await hs({ requestsPerMinute: -1 }),
    'a limit that is not a number': await hs({ tokensPerMinute: '1' }),
    'a limit that is not an integer': await hs({ maxConcurrent: 1.5 }),
    'no token': 'x.y.z',
  };
  for (const [name, token] of Object.entries(invalid)) t.equal(await statusOf(service, token), 401, name);
});

t.test('a token has the models and limits of its claims, and an owner that does not show its subject', async (t) => {
  const service = await bareAuth(t, { jwt: BY_SECRET });
  const limits = { models: ['small'], requestsPerMinute: 1, tokensPerMinute: 2, tokensPerDay: 4, maxConcurrent: 3 };
  const full = await identityOf(service, await hs(limits));
  t.match(full, limits);
  const plain = await identityOf(service, await hs({ extra: 1 }));
  const { owner, tokenExpires, ...rest } = plain ?? { owner: '' };
  t.equal(owner, full?.owner, 'the owner of two tokens of one subject is the same');
  t.type(tokenExpires, 'number');
  t.same(rest, {}, 'without claims there are no limits');
  t.match(plain?.owner, /^jwt:[A-Za-z0-9_-]{22}$/);
  t.notMatch(plain?.owner, /user|example/);
  t.same((await identityOf(service, await hs({ models: [] })))?.models, [], 'an empty list allows no model');
  for (const sub of ['user@example.co', 'user@example.com ', 'User@example.com']) {
    t.not((await identityOf(service, await hs({ sub })))?.owner, plain?.owner, `the subject "${sub}" is another owner`);
  }
});

/** Signs claims that are written as JSON, which may hold what `JSON.stringify` cannot write. */
const signJson = (json: string) => {
  const body = `${encoded({ alg: 'HS256' })}.${Buffer.from(json).toString('base64url')}`;
  return `${body}.${createHmac('sha256', SECRET).update(body).digest('base64url')}`;
};

t.test('a limit that is no number from 1 to 1,000,000,000 refuses the token', async (t) => {
  const service = await bareAuth(t, { jwt: { ...BY_SECRET, defaults: { requestsPerMinute: 5, maxConcurrent: 5 } } });
  const withClaim = (name: string, value: string) =>
    signJson(`${JSON.stringify(claims()).slice(0, -1)},"${name}":${value}}`);
  const invalid = '0 -0 -1 0.5 1.5 1000000001 9007199254740993 1e308 1e999 -1e999 "1" "" "NaN" null true [] [1] {}';
  for (const name of ['requestsPerMinute', 'tokensPerMinute', 'tokensPerDay', 'maxConcurrent']) {
    for (const value of invalid.split(' ')) {
      t.equal(await statusOf(service, withClaim(name, value)), 401, `${name}: ${value}`);
    }
    for (const value of [1, 1_000_000_000]) {
      const identity = await identityOf(service, withClaim(name, String(value)));
      t.equal((identity as Claims | undefined)?.[name], value, `${name}: ${value}`);
    }
  }
  for (const value of ['NaN', 'Infinity', '01', '1_000']) {
    t.equal(await statusOf(service, withClaim('maxConcurrent', value)), 401, `${value} is no JSON`);
  }
});

t.test('subjects of two issuers are two owners', async (t) => {
  const first = await bareAuth(t, { jwt: BY_SECRET });
  const second = await bareAuth(t, { jwt: { ...BY_SECRET, issuer: 'https://second.example' } });
  const owner = (await identityOf(first, await hs()))?.owner;
  const other = (await identityOf(second, await hs({ iss: 'https://second.example' })))?.owner;
  t.ok(owner);
  t.ok(other);
  t.not(owner, other);
});

t.test('tokens that are signed with a key of the key set', async (t) => {
  const { jwt, requests } = await startRsaIssuer(t);
  const service = await bareAuth(t, { jwt });
  t.equal(await statusOf(service, await rs()), 200, 'a valid token');
  t.equal(await statusOf(service, await rs()), 200, 'another one');
  t.equal(requests(), 1, 'the key set is fetched once');
  const pem = publicKey.export({ type: 'spki', format: 'pem' }) as string;
  const invalid: Record<string, string> = {
    'no algorithm': `${encoded({ alg: 'none' })}.${encoded(claims())}.`,
    'HS256 with the public key as secret': await sign(claims(), { kid: 'k1' }, bytes(pem)),
    'an unknown kid': await rs({}, { kid: "' OR 1=1 --" }),
    'a kid that is a path': await rs({}, { kid: '../../etc/passwd' }),
    'another private key': await sign(
      claims(),
      { alg: 'RS256', kid: 'k1' },
      generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey,
    ),
  };
  for (const [name, token] of Object.entries(invalid)) t.equal(await statusOf(service, token), 401, name);
  const reasons = service.log().match(/"reason":"\w+"/g);
  const expected = ['algorithm', 'algorithm', 'signing_key', 'signing_key', 'signature'];
  t.same(
    reasons,
    expected.map((reason) => `"reason":"${reason}"`),
    'the reasons in the log',
  );
  const attacker = await startRsaIssuer(t);
  const jku = attacker.jwt.jwksUrl as string;
  t.equal(await statusOf(service, await rs({}, { kid: 'none', jku, x5u: jku })), 401, 'jku and x5u');
  t.equal(attacker.requests(), 0, 'the urls of a token are not requested');
  t.equal(requests(), 1, 'unknown keys do not cause a request each');
});

t.test('a key set that cannot be fetched is no fault of the caller', async (t) => {
  const failing = await startIssuer(t, (_, response) => response.writeHead(500).end());
  const invalid = await startIssuer(t, (_, response) => response.end('no JSON'));
  const redirecting = await startIssuer(t, (_, response) => response.writeHead(302, { location: '/' }).end());
  const urls: Record<string, string> = {
    'no connection': 'http://127.0.0.1:1/keys',
    'an unknown host': 'http://issuer.invalid/keys',
    'status 500': failing.jwt.jwksUrl as string,
    'no JSON': invalid.jwt.jwksUrl as string,
    'a redirect': redirecting.jwt.jwksUrl as string,
  };
  for (const [name, jwksUrl] of Object.entries(urls)) {
    const service = await bareAuth(t, { jwt: { ...ISSUER, jwksUrl, algorithms: ['RS256'] }, keys: [keyOf('a')] });
    const answer = await service.get('/api', bearer(await rs()));
    t.match(
      answer,
      {
        status: 503,
        headers: { 'retry-after': '5' },
        error: { code: 'overloaded', message: 'Tokens cannot be verified now; retry later.' },
      },
      name,
    );
    t.match(service.log(), /key set of the token issuer unavailable; requests with tokens are refused/, 'a log line');
    t.equal(await statusOf(service, 'a'), 200, 'keys are still accepted');
    t.equal(await statusOf(service, 'x.y.z'), 401, 'what is no token is refused without the key set');
  }
});
