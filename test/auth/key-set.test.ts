import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import dns from 'node:dns';
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import { syncBuiltinESMExports } from 'node:module';
import type { AddressInfo } from 'node:net';
import { exportJWK, SignJWT } from 'jose';
import t, { type Test } from 'tap';
import { bearer, until } from '../helper.ts';
import { manualClock } from '../manual-clock.ts';
import { bareAuth, keyOf } from './bare-auth.ts';

/** The key set of a token issuer: when it is fetched, and what holds while the issuer is unavailable. */

const ISSUER = { issuer: 'https://issuer.example', audience: 'sluice', algorithms: ['RS256'] };
const MINUTE_MS = 60_000;

const keyPair = () => generateKeyPairSync('rsa', { modulusLength: 2048 });
const [first, second] = [keyPair(), keyPair()];

const sign = (privateKey: KeyObject, kid?: string) =>
  new SignJWT({ sub: 'user' })
    .setProtectedHeader({ alg: 'RS256', ...(kid !== undefined && { kid }) })
    .setIssuer(ISSUER.issuer)
    .setAudience(ISSUER.audience)
    .setExpirationTime('1h')
    .sign(privateKey);

async function keySet(keys: Readonly<Record<string, KeyObject>>, hasIds = true): Promise<string> {
  const entries = Object.entries(keys).map(async ([kid, key]) => ({
    ...(await exportJWK(key)),
    ...(hasIds && { kid }),
  }));
  return JSON.stringify({ keys: await Promise.all(entries) });
}

/** Starts an issuer and a service that trusts it, with a clock that the test advances. */
async function start(t: Test, body: string) {
  let answer: RequestListener = (_, response) => void response.end(body);
  let requests = 0;
  const server = createServer((request, response) => {
    requests += 1;
    answer(request, response);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close().closeAllConnections());
  const clock = manualClock();
  const { port } = server.address() as AddressInfo;
  const jwt = { ...ISSUER, jwksUrl: `http://127.0.0.1:${port}/keys` };
  const service = await bareAuth(t, { jwt, keys: [keyOf('a')], time: clock });
  return {
    ...service,
    clock,
    jwt,
    requests: () => requests,
    answer: (next: RequestListener) => {
      answer = next;
    },
    answerWith: (next: string) => {
      answer = (_, response) => void response.end(next);
    },
    status: async (token: string) => (await service.get('/api', bearer(token))).status,
  };
}

const refuse: RequestListener = (_, response) => void response.writeHead(503).end();

t.test('the last key set is used for an hour while the issuer is unavailable, and no token waits for it', async (t) => {
  const { status, answer, answerWith, clock, log, reload, jwt, requests } = await start(
    t,
    await keySet({ one: first.publicKey }),
  );
  const token = await sign(first.privateKey, 'one');
  t.equal(await status(token), 200);
  answer(refuse);
  clock.advance(10 * MINUTE_MS);
  t.equal(await status(token), 200, 'after ten minutes the issuer is asked again, and fails');
  t.equal(requests(), 2);
  t.match(log(), /"reason":"http_503","msg":"key set of the token issuer unavailable; its last key set is used/);
  let reached: () => void = () => {};
  answer(() => reached()); // Hangs.
  clock.advance(5_000);
  const asked = new Promise<void>((resolve) => {
    reached = resolve;
  });
  t.equal(await status(token), 200, 'no token waits for an issuer that does not answer');
  await asked;
  t.equal(await status(await sign(second.privateKey, 'two')), 401, 'nor does a token with an unknown key');
  reload([keyOf('a'), keyOf('b')], jwt);
  t.equal(await status(token), 200, 'a reload of the configuration keeps the key set');
  clock.advance(50 * MINUTE_MS - 5_000);
  t.equal(await status(token), 503, 'after an hour the key set is too old');
  t.equal(await status('a'), 200, 'keys are still accepted');
  answerWith(await keySet({ one: first.publicKey }));
  await until(async () => {
    clock.advance(5_000);
    return (await status(token)) === 200;
  }, 'tokens are accepted again');
  t.match(log(), /key set of the token issuer available again/);
  t.equal(log().match(/unavailable/g)?.length, 1, 'one line for the whole outage');
});

t.test('bad tokens cause no fetch each, whatever the issuer answers', async (t) => {
  const good = await keySet({ one: first.publicKey });
  const unknown = await sign(second.privateKey, 'unknown');
  for (const [name, answer] of Object.entries<RequestListener>({
    'a good issuer': (_, response) => void response.end(good),
    'an issuer that fails': refuse,
    'an issuer that sends no JSON': (_, response) => void response.end('<html>'),
    'an issuer that sends no key set': (_, response) => void response.end('{"keys":1}'),
    'an issuer that sends too much': (_, response) => void response.end(good.padEnd(1_048_577)),
    'an issuer that redirects': (_, response) => void response.writeHead(302, { location: '/' }).end(),
    'an issuer that closes': (request) => void request.socket.destroy(),
  })) {
    const service = await start(t, good);
    service.answer(answer);
    for (let i = 0; i < 20; i++) await service.status(unknown);
    t.equal(service.requests(), 1, name);
    service.clock.advance(5_000);
    await Promise.all(Array.from({ length: 20 }, () => service.status(unknown)));
    t.equal(service.requests(), 2, `${name}, five seconds later`);
  }
});

t.test('a new key is accepted after five seconds at most, and a withdrawn key for ten minutes at most', async (t) => {
  const { status, answerWith, clock } = await start(t, await keySet({ one: first.publicKey }));
  const [old, fresh] = [await sign(first.privateKey, 'one'), await sign(second.privateKey, 'two')];
  t.equal(await status(old), 200);
  answerWith(await keySet({ two: second.publicKey }));
  t.equal(await status(fresh), 401, 'the key set was fetched a moment ago');
  t.equal(await status(old), 200);
  clock.advance(5_000);
  t.equal(await status(fresh), 200);
  t.equal(await status(old), 401);

  answerWith(await keySet({ one: first.publicKey }));
  clock.advance(10 * MINUTE_MS - 1);
  t.equal(await status(fresh), 200);
  clock.advance(1);
  t.equal(await status(fresh), 401, 'withdrawn');
});

t.test('a token without a key id is verified with each key of the key set', async (t) => {
  const both = { one: first.publicKey, two: second.publicKey };
  for (const hasIds of [true, false]) {
    const { status } = await start(t, await keySet(both, hasIds));
    t.equal(await status(await sign(first.privateKey)), 200);
    t.equal(await status(await sign(second.privateKey)), 200);
    t.equal(await status(await sign(keyPair().privateKey)), 401);
  }
});

t.test(
  'an issuer whose name resolves to a metadata address is not connected to, and the name is resolved once',
  async (t) => {
    const { lookup } = dns;
    t.teardown(() => {
      dns.lookup = lookup;
      syncBuiltinESMExports();
    });
    const good = await keySet({ one: first.publicKey });
    const { jwt, requests } = await start(t, good);
    const { port } = new URL(jwt.jwksUrl);
    const names: string[] = [];
    let addresses = ['169.254.169.254'];
    dns.lookup = ((name: string, _: object, done: (error: null, found: object[]) => void) => {
      names.push(name);
      const [address = ''] = addresses;
      // The second look-up of the same name leads elsewhere (DNS rebinding).
      if (addresses.length > 1) addresses = addresses.slice(1);
      done(null, [{ address, family: 4 }]);
    }) as unknown as typeof lookup;
    syncBuiltinESMExports();
    const token = await sign(first.privateKey, 'one');
    const ask = async () => {
      const service = await bareAuth(t, {
        jwt: { ...jwt, jwksUrl: `http://issuer.example:${port}/keys` },
        time: manualClock(),
      });
      return (await service.get('/api', bearer(token))).status;
    };
    t.equal(await ask(), 503);
    t.equal(requests(), 0);
    addresses = ['127.0.0.1', '169.254.169.254'];
    t.equal(await ask(), 200);
    t.same(names, ['issuer.example', 'issuer.example'], 'one look-up for each fetch');
  },
);
