import t from 'tap';
import type { AskTicketOptions } from '../../plugins/auth/ticket-issuer.ts';
import { bearer } from '../helper.ts';
import { manualDate } from '../manual-date.ts';
import { type BareAuth, bareAuth, keyOf } from './bare-auth.ts';

/** The identity that a ticket gives to a visitor of a page. */

const STREAM = 'S'.repeat(22);

/** Returns the answer of a route for questions to a new ticket of a key. */
async function ask(service: BareAuth, key: string, options: AskTicketOptions) {
  const { ticket } = service.app.auth.createAskTicket(await service.identify(bearer(key)), options);
  return service.get(`/ask?ticket=${ticket}`);
}
const limitsOf = ({ identity }: Awaited<ReturnType<typeof ask>>) => {
  const { requestsPerMinute, tokensPerMinute, tokensPerDay, maxConcurrent } = identity ?? {};
  return { requestsPerMinute, tokensPerMinute, tokensPerDay, maxConcurrent };
};

t.test('a visitor is an owner of its own, the same with each ticket and on each replica', async (t) => {
  const keys = [keyOf('a', { models: ['m'] }), keyOf('b')];
  const [service, other] = [await bareAuth(t, { keys }), await bareAuth(t, { keys })];
  const owners: string[] = [];
  for (const [where, key, options] of [
    [service, 'a', { visitor: 'ada' }],
    [other, 'a', { visitor: 'ada', questions: 5, model: 'm' }],
    [service, 'a', { visitor: 'bob' }],
    [service, 'b', { visitor: 'ada' }],
    [service, 'a', {}],
  ] as const) {
    owners.push((await ask(where, key, options)).identity?.owner ?? '');
  }
  t.equal(owners[0], owners[1], 'the same visitor');
  t.equal(new Set(owners).size, 4, 'another visitor, the same name of another key, and the key are others');
  t.match(owners[0], /^key:a#[\w-]{16}$/);
  t.match(owners[3], /^key:b#[\w-]{16}$/);
  t.notMatch(owners.join(), /ada|bob/, 'no name is kept');
  t.match((await ask(service, 'a', { visitor: 'ada' })).identity, { models: ['m'], holder: { owner: 'key:a' } });
  const otherSecret = await bareAuth(t, { keys, ticketSecret: 'another secret of thirty-two bytes!' });
  t.not((await ask(otherSecret, 'a', { visitor: 'ada' })).identity?.owner, owners[0], 'the hash has a secret');
});

t.test('limits of a visitor: of its ticket, else of its key, and never above that of the key', async (t) => {
  const names = ['requestsPerMinute', 'tokensPerMinute', 'tokensPerDay', 'maxConcurrent'] as const;
  for (const name of names) {
    const visitors = { [name]: 5 };
    const service = await bareAuth(t, {
      keys: [
        keyOf('none'),
        keyOf('own', { [name]: 10 }),
        keyOf('both', { [name]: 10, visitors }),
        keyOf('low', { [name]: 3, visitors }),
      ],
    });
    const limit = async (key: string, own?: number) =>
      limitsOf(await ask(service, key, { visitor: 'v', ...(own !== undefined && { limits: { [name]: own } }) }));
    const expected = { ...Object.fromEntries(names.map((other) => [other, undefined])) };
    for (const [key, own, value] of [
      ['none', undefined, undefined],
      ['none', 7, 7],
      ['own', undefined, undefined],
      ['own', 7, 7],
      ['own', 11, 10],
      ['both', undefined, 5],
      ['both', 7, 7],
      ['both', 4, 4],
      ['both', 11, 10],
      ['low', undefined, 3],
    ] as const) {
      t.same(await limit(key, own), { ...expected, [name]: value }, `${name}: key ${key}, ticket ${own}`);
    }
  }
});

t.test('a reload applies to the visitors of tickets that were signed before', async (t) => {
  const service = await bareAuth(t, { keys: [keyOf('a', { visitors: { maxConcurrent: 1 } })] });
  const { ticket } = service.app.auth.createAskTicket(await service.identify(bearer('a')), { visitor: 'v' });
  const asked = () => service.get(`/ask?ticket=${ticket}`);
  service.reload([keyOf('a', { maxConcurrent: 9, visitors: { maxConcurrent: 2, tokensPerDay: 8 } })]);
  t.match((await asked()).identity, { maxConcurrent: 2, tokensPerDay: 8, holder: { maxConcurrent: 9 } });
  service.reload([keyOf('a')], undefined, { keyDefaults: { visitors: { requestsPerMinute: 4 } } });
  t.match(limitsOf(await asked()), { requestsPerMinute: 4, maxConcurrent: undefined }, 'the defaults of keys');
  service.reload([keyOf('b')]);
  t.equal((await asked()).status, 401, 'a removed key');
});

t.test('the stream of a visitor is read by its ticket as that visitor', async (t) => {
  const service = await bareAuth(t, { keys: [keyOf('a', { visitors: { maxConcurrent: 3 } })] });
  const asked = await ask(service, 'a', { visitor: 'v' });
  const identity = { ...asked.identity, holder: await service.identify(bearer('a')) } as never;
  const query = service.app.auth.createReadTicketQuery(STREAM, identity);
  const read = await service.get(`/streams/${STREAM}${query}`);
  t.match(read.identity, { owner: asked.identity?.owner, maxConcurrent: 3, holder: { owner: 'key:a' } });
  t.equal((await service.get(`/streams/${'T'.repeat(22)}${query}`)).status, 401, 'another stream');
});

t.test('a ticket is accepted as a bearer where it is accepted in the query', async (t) => {
  const date = manualDate(t);
  const service = await bareAuth(t, { keys: [keyOf('a')] });
  const { ticket } = service.app.auth.createAskTicket(await service.identify(bearer('a')), { visitor: 'v' });
  t.match((await service.get('/ask', bearer(ticket))).identity, { owner: /^key:a#/, ticket: { questions: 1 } });
  for (const path of ['/api', `/streams/${STREAM}`, '/read']) {
    t.equal((await service.get(path, bearer(ticket))).status, 401, path);
  }
  const damaged = `${ticket.slice(0, -1)}${ticket.endsWith('A') ? 'B' : 'A'}`;
  t.equal((await service.get('/ask', bearer(damaged))).status, 401, 'a damaged one');
  const read = service.app.auth.createReadTicketQuery(STREAM, {
    owner: 'key:a',
    credential: service.app.auth.findCredential(keyOf('a').sha256.slice(0, 12)),
  });
  t.equal(
    (await service.get(`/streams/${STREAM}`, bearer(read.slice('?ticket='.length)))).status,
    200,
    'a read ticket',
  );
  date.advance(60_000);
  t.equal((await service.get('/ask', bearer(ticket))).status, 401, 'an expired one');
  t.match(
    (await service.get('/ask', { ...bearer(ticket), 'last-event-id': 'x.1' })).identity,
    { resumeOnly: true },
    'an expired one resumes',
  );
});

t.test('a ticket for several questions is valid for an hour at most, and says how many', async (t) => {
  manualDate(t);
  const service = await bareAuth(t, { keys: [keyOf('a')] });
  const identity = await service.identify(bearer('a'));
  const minutesOf = (options: AskTicketOptions) =>
    (service.app.auth.createAskTicket(identity, options).expiresAt.getTime() - Date.now()) / 60_000;
  t.equal(minutesOf({ questions: 2, ms: 600_000 }), 10);
  t.equal(minutesOf({ questions: 2, ms: 7_200_000 }), 60, 'an hour at most');
  t.equal(minutesOf({ questions: 1, ms: 600_000 }), 1, 'a minute for one question');
  t.match((await ask(service, 'a', { questions: 7, maxTokens: 5, system: 's' })).identity?.ticket, {
    questions: 7,
    maxTokens: 5,
    system: 's',
  });
  t.throws(() => service.app.auth.createAskTicket(identity, { system: 'x'.repeat(3_000) }), {
    statusCode: 400,
    message: 'The ticket would be too long: shorten system.',
  });
});
