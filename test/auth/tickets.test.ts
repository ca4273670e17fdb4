import { createHmac } from 'node:crypto';
import t from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import { createTickets, type Ticket } from '../../plugins/auth/tickets.ts';
import { bearer } from '../helper.ts';
import { manualDate } from '../manual-date.ts';
import { type BareAuth, bareAuth, keyOf, LONGEST_ANSWER_MS, SECRET, STREAM_TTL_MS } from './bare-auth.ts';

/** Tickets: what each kind allows, for how long, and whose permissions it has. */

const KEYS = [keyOf('a'), keyOf('b', { models: ['small', 'tiny'], requestsPerMinute: 7 })];
const A: Identity = { owner: 'key:a' };
const B: Identity = { owner: 'key:b' };
/** The owner of a ticket of the key `a`. */
const OF_A = { owner: 'key:a', mark: keyOf('a').sha256.slice(0, 12) };
const STREAM = 'S'.repeat(22);

const ask = ({ get }: BareAuth, ticket: string, query = '', headers = {}) =>
  get(`/ask?ticket=${encodeURIComponent(ticket)}${query}`, headers);
/** Adds the credential of the key with the name of the owner. */
const caller = ({ app }: BareAuth, { owner, ...rest }: Identity): Identity => {
  const mark = keyOf(owner.replace('key:', '')).sha256.slice(0, 12);
  return { owner, ...rest, credential: app.auth.findCredential(mark) };
};
const createAskTicket = (service: BareAuth, identity: Identity, model?: string, ms?: number) =>
  service.app.auth.createAskTicket(caller(service, identity), { model, ms });
const askTicket = (...args: Parameters<typeof createAskTicket>) => createAskTicket(...args).ticket;
const readQuery = (service: BareAuth, identity: Identity) =>
  service.app.auth.createReadTicketQuery(STREAM, caller(service, identity));
const sign = (ticket: Partial<Ticket> & { kind: string }, secret = SECRET) =>
  createTickets(Buffer.from(secret)).sign({ expires: Date.now() + 1_000, ...OF_A, ...ticket } as Ticket) ?? '';

t.test('an ask ticket has the permissions that its key has now, and a nonce of its own', async (t) => {
  const service = await bareAuth(t, { keys: KEYS });
  const first = (await ask(service, askTicket(service, B))).identity;
  t.match(first, { owner: 'key:b', models: ['small', 'tiny'], requestsPerMinute: 7, resumeOnly: false });
  const second = (await ask(service, askTicket(service, B))).identity;
  t.ok(Buffer.from(first?.ticket?.nonce as string, 'base64url').length >= 16, 'a nonce of at least 128 bits');
  t.not(second?.ticket?.nonce, first?.ticket?.nonce, 'another ticket has another nonce');
  const ticket = askTicket(service, B);
  const uses = [await ask(service, ticket), await ask(service, ticket)];
  t.same(uses[0]?.identity?.ticket, uses[1]?.identity?.ticket, 'each use of a ticket has the same nonce');

  service.reload([keyOf('b', { models: ['big'], maxConcurrent: 3 })]);
  t.match((await ask(service, ticket)).identity, { models: ['big'], maxConcurrent: 3 }, 'changed permissions');
  t.equal((await ask(service, ticket)).identity?.requestsPerMinute, undefined, 'a removed limit');
  service.reload([keyOf('a'), keyOf('c')]);
  t.equal((await ask(service, ticket)).status, 401, 'a ticket of a removed key');
});

t.test('a ticket of a key that has expired is refused', async (t) => {
  const date = manualDate(t);
  const expiresAt = new Date(Date.now() + 10_000).toISOString();
  const service = await bareAuth(t, { keys: [keyOf('a', { expiresAt })] });
  const ticket = askTicket(service, A);
  const read = readQuery(service, A);
  date.advance(9_999);
  t.equal((await ask(service, ticket)).status, 200, 'a millisecond before the key expires');
  t.equal((await service.get(`/streams/${STREAM}${read}`)).status, 200, 'also for its stream');
  date.advance(1);
  t.equal((await ask(service, ticket)).status, 401, 'an ask ticket');
  t.equal((await service.get(`/streams/${STREAM}${read}`)).status, 401, 'a read ticket');
});

t.test('a ticket for one model allows that model only, as long as its key may use it', async (t) => {
  const service = await bareAuth(t, { keys: KEYS });
  const small = askTicket(service, B, 'small');
  const big = askTicket(service, A, 'big');
  t.same((await ask(service, small)).identity?.models, ['small'], 'one of two models of the key');
  t.same((await ask(service, big)).identity?.models, ['big'], 'a key that may use all models');
  t.equal((await ask(service, askTicket(service, A))).identity?.models, undefined, 'a ticket without a model');
  service.reload([keyOf('a', { models: ['other'] }), keyOf('b', { models: ['tiny'] })]);
  t.equal((await ask(service, small)).status, 401, 'the model was withdrawn from the key');
  t.equal((await ask(service, big)).status, 401, 'the key may no longer use all models');
  service.reload([keyOf('a'), keyOf('b', { models: ['small'] })]);
  t.same((await ask(service, small)).identity?.models, ['small'], 'the model was given back to the key');
  t.same((await ask(service, big)).identity?.models, ['big'], 'the key may use all models again');
});

t.test('an ask ticket starts a question for at most a minute, then it can only resume', async (t) => {
  const date = manualDate(t);
  const service = await bareAuth(t, { keys: KEYS });
  const { ticket, expiresAt } = createAskTicket(service, A, undefined);
  t.equal(expiresAt.getTime(), Date.now() + 60_000, 'a minute');
  const short = createAskTicket(service, A, undefined, 5_000);
  t.equal(short.expiresAt.getTime(), Date.now() + 5_000, 'or less');
  t.equal(createAskTicket(service, A, undefined, 600_000).expiresAt.getTime(), Date.now() + 60_000, 'but never more');

  date.advance(4_999);
  t.match(await ask(service, short.ticket), { status: 200, identity: { resumeOnly: false } }, 'just before it expires');
  date.advance(1);
  t.equal((await ask(service, short.ticket)).status, 401, 'a ticket that has just expired');
  t.match(await ask(service, ticket), { status: 200, identity: { resumeOnly: false } }, 'a longer one is still valid');
  date.advance(LONGEST_ANSWER_MS);
  t.equal((await ask(service, ticket)).status, 401, 'long after it has expired');
  const terms = (await ask(service, ticket, '&lastEventId=x.1')).identity?.ticket;
  for (const [name, query, headers, status] of [
    ['a Last-Event-ID', '', { 'last-event-id': 'x.1' }, 200],
    ['lastEventId', '&lastEventId=x.1', {}, 200],
    ['an empty Last-Event-ID', '', { 'last-event-id': '' }, 401],
    ['an empty lastEventId', '&lastEventId=', {}, 401],
    ['two lastEventId', '&lastEventId=x.1&lastEventId=x.2', {}, 401],
  ] as const) {
    const answer = await ask(service, ticket, query, headers);
    t.equal(answer.status, status, `an expired ticket with ${name}`);
    if (status === 200) t.match(answer.identity, { owner: 'key:a', ticket: terms, resumeOnly: true }, 'only resumes');
  }
  const resumed = async () => (await ask(service, ticket, '&lastEventId=x.1')).status;
  date.advance(60_000 + STREAM_TTL_MS - 5_000 - 1);
  t.equal(await resumed(), 200, 'as long as its stream may be kept');
  date.advance(1);
  t.equal(await resumed(), 401, 'its stream cannot exist any more');
});

t.test('a ticket ends with its key, also if another key gets its name', async (t) => {
  const service = await bareAuth(t, { keys: KEYS });
  const ticket = askTicket(service, A);
  const read = `/streams/${STREAM}${readQuery(service, A)}`;
  const statuses = async () => [
    (await ask(service, ticket)).status,
    (await ask(service, ticket, '&lastEventId=x.1')).status,
    (await service.get(read)).status,
  ];
  t.same(await statuses(), [200, 200, 200]);
  service.reload([{ ...keyOf('a'), sha256: keyOf('other').sha256 }]);
  t.same(await statuses(), [401, 401, 401], 'a key that replaces a leaked one');
  service.reload([{ ...keyOf('a', { maxConcurrent: 1 }), sha256: keyOf('a').sha256.toUpperCase() }]);
  t.same(await statuses(), [200, 200, 200], 'the same key, written in another way and with another limit');
});

t.test('requests for unknown streams are charged to the ticket, not to its key', async (t) => {
  const service = await bareAuth(t, { keys: KEYS });
  const first = (await ask(service, askTicket(service, B))).identity;
  const second = (await ask(service, askTicket(service, B))).identity;
  const query = readQuery(service, B);
  const reader = (await service.get(`/streams/${STREAM}${query}`)).identity;
  const owners = [first, second, reader].map((identity) => identity?.guesser?.owner);
  t.equal(new Set([...owners, 'key:b', undefined]).size, 5, 'each ticket has a limit of its own');
  t.match(first?.guesser, { requestsPerMinute: 10 });
  t.equal((await service.get('/api', bearer('b'))).identity?.guesser, undefined, 'a key pays for itself');
});

t.test('a read ticket reads its stream as long as that can be stored, and nothing else', async (t) => {
  const date = manualDate(t);
  const service = await bareAuth(t, { keys: KEYS });
  const query = readQuery(service, B);
  const read = (stream: string, headers = {}) => service.get(`/streams/${stream}${query}`, headers);
  const first = await read(STREAM);
  t.match(first, { status: 200, identity: { owner: 'key:b', models: ['small', 'tiny'] } }, 'its stream');
  t.equal(first.identity?.ticket, undefined, 'the reader stands for the key, not for an ask ticket');
  t.equal((await read('T'.repeat(22))).status, 401, 'another stream');
  t.equal((await service.get(`/ask${query}`)).status, 401, 'a question');
  t.equal((await service.get(`/ask/${STREAM}${query}`)).status, 401, 'a question about its stream');
  t.equal(
    (await service.get(`/ask${query}`, { 'last-event-id': `${STREAM}.1` })).status,
    401,
    'a resume of a question',
  );
  t.equal((await service.get(`/api${query}`)).status, 401, 'the rest of the API');
  t.equal((await service.get(`/read${query}`)).status, 401, 'a route without a stream');
  date.advance(LONGEST_ANSWER_MS + STREAM_TTL_MS - 1);
  t.equal((await read(STREAM)).status, 200, 'until its stream has expired');
  date.advance(1);
  t.equal((await read(STREAM)).status, 401, 'an expired ticket');
  t.equal((await read(STREAM, { 'last-event-id': `${STREAM}.1` })).status, 401, 'an expired ticket does not resume');
});

t.test('an ask ticket is accepted by routes for questions only', async (t) => {
  const service = await bareAuth(t, { keys: KEYS });
  const query = `?ticket=${askTicket(service, A)}`;
  t.equal((await service.get(`/ask${query}`)).status, 200, 'a question');
  t.equal((await service.get(`/api${query}`)).status, 401, 'the rest of the API');
  t.equal((await service.get(`/streams/${STREAM}${query}`)).status, 401, 'a stream');
  t.equal((await service.get(`/read${query}`)).status, 401, 'a route without a stream');
});

t.test('the Authorization header takes precedence over a ticket', async (t) => {
  const service = await bareAuth(t, { keys: KEYS });
  const ticket = askTicket(service, B);
  t.equal((await ask(service, ticket, '', bearer('a'))).identity?.owner, 'key:a', 'a valid key');
  t.equal((await ask(service, 'x.y', '', bearer('a'))).identity?.owner, 'key:a', 'with an invalid ticket');
  t.equal((await ask(service, ticket, '', bearer('wrong'))).status, 401, 'an invalid key with a valid ticket');
  t.equal((await ask(service, ticket, '', { authorization: 'Basic eDp5' })).status, 401, 'another scheme');
});

t.test('forged and damaged tickets are refused', async (t) => {
  const service = await bareAuth(t, { keys: KEYS });
  const valid = sign({ kind: 'ask', nonce: 'n' });
  t.equal((await ask(service, valid)).status, 200, 'a valid ticket');
  const [body = '', signature = ''] = valid.split('.');
  const encode = (ticket: object) => Buffer.from(JSON.stringify(ticket)).toString('base64url');
  const changed = encode({ ...JSON.parse(Buffer.from(body, 'base64url').toString()), owner: 'key:b' });
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  // The last character of 32 bytes has two unused bits: four characters decode to the same bytes.
  const lastIndex = alphabet.indexOf(signature.at(-1) as string);
  const sameBytes = signature.slice(0, -1) + alphabet[lastIndex ^ 1];
  const otherPurpose = createHmac('sha256', SECRET).update(body).digest('base64url');
  const invalid: Record<string, string> = {
    'another content with the old signature': `${changed}.${signature}`,
    'another signature': `${body}.${'A'.repeat(43)}`,
    'a signature that decodes to the same bytes': `${body}.${sameBytes}`,
    'a signature without the purpose of tickets': `${body}.${otherPurpose}`,
    'no signature': body,
    'an empty signature': `${body}.`,
    'a short signature': `${body}.${signature.slice(1)}`,
    'text behind the signature': `${valid}x`,
    'text before the body': `.${valid}`,
    'no body': `.${signature}`,
    'the secret of another service': sign({ kind: 'ask', nonce: 'n' }, 'x'.repeat(32)),
    'an unknown owner': sign({ kind: 'ask', nonce: 'n', owner: 'key:c' }),
    'the owner of a token without its claims': sign({ kind: 'ask', nonce: 'n', owner: 'jwt:x' }),
  };
  for (const [name, ticket] of Object.entries(invalid)) {
    const answer = await ask(service, ticket);
    t.equal(answer.status, 401, name);
    t.equal(answer.headers['www-authenticate'], 'Bearer', `${name}: www-authenticate`);
  }
  t.equal((await service.get(`/ask?ticket=${valid}&ticket=${valid}`)).status, 401, 'two tickets');
  t.equal((await service.get('/ask')).status, 401, 'no ticket');
  const otherKind = sign({ kind: 'read', stream: STREAM });
  t.equal((await ask(service, otherKind)).status, 401, 'a ticket of the other kind');
});

t.test('a ticket is at most 4,096 characters long', async (t) => {
  const service = await bareAuth(t, { keys: KEYS });
  const tickets = createTickets(Buffer.from(SECRET));
  const base: Ticket = { kind: 'ask', nonce: '', expires: Date.now() + 1_000, ...OF_A };
  // Three bytes of JSON become four characters; 44 characters are the dot and the signature.
  const bytes = ((4_096 - 44) / 4) * 3;
  const padded = (length: number): Ticket => ({
    ...base,
    nonce: 'n'.repeat(length - JSON.stringify(base).length),
  });
  const longest = tickets.sign(padded(bytes));
  t.equal(longest?.length, 4_096, 'the longest ticket');
  t.equal((await ask(service, longest as string)).status, 200, 'is accepted');
  t.equal(tickets.sign(padded(bytes + 1)), undefined, 'a longer one is not signed');
  const body = Buffer.from(JSON.stringify(padded(bytes + 1))).toString('base64url');
  const signature = createHmac('sha256', SECRET).update(`sluice-ticket.${body}`).digest('base64url');
  t.equal(tickets.open(`${body}.${signature}`), undefined, 'and not accepted, even with a valid signature');
});

t.test('without TICKET_SECRET tickets are valid in one process only', async (t) => {
  const withSecret = [await bareAuth(t, { keys: KEYS }), await bareAuth(t, { keys: KEYS })] as const;
  t.equal((await ask(withSecret[1], askTicket(withSecret[0], A))).status, 200, 'replicas with one secret');
  const options = { keys: KEYS, ticketSecret: undefined };
  const random = [await bareAuth(t, options), await bareAuth(t, options)] as const;
  const ticket = askTicket(random[0], A);
  t.equal((await ask(random[0], ticket)).status, 200, 'the process that created it');
  t.equal((await ask(random[1], ticket)).status, 401, 'another process');
  const empty = createTickets(Buffer.alloc(0));
  const forged = empty.sign({ kind: 'ask', nonce: 'n', expires: Date.now() + 1_000, owner: 'key:a' });
  t.equal((await ask(random[0], forged as string)).status, 401, 'a ticket that is signed with nothing');
});

t.test('without keys and tokens no ticket is needed, and none is checked', async (t) => {
  const service = await bareAuth(t);
  t.equal(
    service.app.auth.createReadTicketQuery(STREAM, { owner: 'anybody' }),
    '',
    'the url of a stream has no ticket',
  );
  t.same((await ask(service, 'x.y')).identity, { owner: 'anybody' });
});
