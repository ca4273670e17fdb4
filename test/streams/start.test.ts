import t, { type Test } from 'tap';
import type { Identity } from '../../plugins/auth/identity.ts';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import { type CreateResult, KeyConflict, StoreFull, type StreamStore } from '../../plugins/streams/types.ts';
import { refusal } from '../limits/bare-limits.ts';
import { manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';
import { type BareStreams, bareStreams, countFreeSlots, finish, MAX_GENERATIONS, readAll } from './bare-streams.ts';

/** A question before its generation runs: what is refused, in which order, and what is given back. */

const OWNER: Identity = { owner: 'a', maxConcurrent: 2, tokensPerMinute: 1_000 };
/** Tokens that a question with `maxTokens: 99` is estimated at. */
const ESTIMATE = 100;
const QUESTION = { maxTokens: ESTIMATE - 1 };

/** A store whose `create` and `openByKey` do what the test says. */
function scriptedStore() {
  const memory = new MemoryStore({
    clock: manualClock(),
    highWaterMark: 1_000,
    flushMs: 0,
    ttlMs: 1_000,
    maxTotalBytes: 1e9,
    onEvicted() {},
  });
  const script: {
    create?: (...args: Parameters<StreamStore['create']>) => Promise<CreateResult> | undefined;
    openByKey?: StreamStore['openByKey'];
  } = {};
  const store: StreamStore = {
    create: (info, idempotency) => script.create?.(info, idempotency) ?? memory.create(info, idempotency),
    openByKey: (idempotency) => script.openByKey?.(idempotency) ?? memory.openByKey(idempotency),
    openByChat: (chat) => memory.openByChat(chat),
    open: (id) => memory.open(id),
    close: () => memory.close(),
  };
  return { store, script, memory };
}

function finishAll(service: BareStreams): void {
  for (let n = 0; n < service.calls.length; n += 1) finish(service, n);
}

const reject = (error: Error) => () => Promise.reject(error);

/** Asserts that the process, the owner's slots and the owner's tokens are all free. */
async function assertAllFree(t: Test, service: BareStreams): Promise<void> {
  t.equal(service.app.streams.active, 0, 'no generation is active');
  t.equal(await countFreeSlots(service), MAX_GENERATIONS, 'all slots of the process are free, and not one more');
  t.equal(await service.fits(OWNER, 1_000), true, 'all tokens of the owner are free');
  const before = service.calls.length;
  const accepted: string[] = [];
  for (let i = 0; i < 3; i++) {
    accepted.push(
      await service.start(OWNER, QUESTION).then(
        () => 'accepted',
        () => 'refused',
      ),
    );
  }
  t.same(accepted, ['accepted', 'accepted', 'refused'], 'all slots of the owner are free, and not one more');
  for (let n = before; n < service.calls.length; n += 1) finish(service, n);
}

interface Refusal {
  readonly name: string;
  /** Makes the next question of `OWNER` be refused. */
  readonly cause: (service: BareStreams, scripted: ReturnType<typeof scriptedStore>) => unknown;
  /** Removes the cause. */
  readonly remove: (service: BareStreams, scripted: ReturnType<typeof scriptedStore>) => unknown;
  readonly expected: object;
  readonly reason: string | undefined;
}

const OVERLOADED = { statusCode: 503, code: 'overloaded', retryAfterMs: 5_000 };
const CONFLICT = { statusCode: 409, code: 'conflict', message: 'This key was used for another question.' };

const REFUSALS: Refusal[] = [
  {
    name: 'the process is overloaded',
    cause: ({ world }) => (world.isOverloaded = true),
    remove: ({ world }) => (world.isOverloaded = false),
    expected: { ...OVERLOADED, message: 'The service is overloaded; retry later.' },
    reason: 'pressure',
  },
  {
    name: 'every provider of the model is busy',
    cause: ({ world }) => (world.hasCapacity = false),
    remove: ({ world }) => (world.hasCapacity = true),
    expected: { ...OVERLOADED, message: 'Every provider of this model is busy; retry later.' },
    reason: 'saturated',
  },
  {
    name: 'MAX_GENERATIONS generations run',
    cause: async (service) => {
      for (let i = 0; i < MAX_GENERATIONS; i++) await service.start({ owner: 'other' });
    },
    remove: finishAll,
    expected: { ...OVERLOADED, message: 'Too many answers are running; retry later.' },
    reason: 'full',
  },
  {
    name: 'all slots of the owner are in use',
    cause: async (service) => {
      for (let i = 0; i < 2; i++) await service.start({ ...OWNER, tokensPerMinute: undefined });
    },
    remove: finishAll,
    expected: { statusCode: 429, code: 'rate_limited', retryAfterMs: 2_000 },
    reason: 'limit_concurrent',
  },
  {
    name: 'the store is full',
    cause: (_, { script }) => (script.create = reject(new StoreFull())),
    remove: (_, { script }) => delete script.create,
    expected: { ...OVERLOADED, message: 'Too many answers are stored; retry later.' },
    reason: 'memory',
  },
  {
    name: 'the store fails',
    cause: (_, { script }) => (script.create = reject(new Error('no connection'))),
    remove: (_, { script }) => delete script.create,
    expected: { ...OVERLOADED, message: 'The stream store is unavailable; retry later.' },
    reason: 'store',
  },
  {
    name: 'the store fails at the look-up of the key',
    cause: (_, { script }) => (script.openByKey = reject(new Error('no connection'))),
    remove: (_, { script }) => delete script.openByKey,
    expected: { ...OVERLOADED, message: 'The stream store is unavailable; retry later.' },
    reason: 'store',
  },
  {
    name: 'the key stands for another question',
    cause: (_, { script }) => (script.openByKey = reject(new KeyConflict())),
    remove: (_, { script }) => delete script.openByKey,
    expected: CONFLICT,
    reason: undefined,
  },
  {
    name: 'another replica has used the key for another question in the meantime',
    cause: (_, { script }) => (script.create = reject(new KeyConflict())),
    remove: (_, { script }) => delete script.create,
    expected: CONFLICT,
    reason: undefined,
  },
];

for (const { name, cause, remove, expected, reason } of REFUSALS) {
  t.test(`a question is refused before its stream if ${name}, and gives everything back`, async (t) => {
    const scripted = scriptedStore();
    const service = await bareStreams(t, { store: scripted.store });
    await cause(service, scripted);
    const calls = service.calls.length;
    const refused = () => metricValue(service.app, 'sluice_refusals_total', reason === undefined ? {} : { reason });
    const countBefore = await refused();
    for (let i = 1; i <= 3; i++) {
      t.match(await refusal(service.start(OWNER, QUESTION, { key: 'k' })), expected, 'the refusal');
    }
    t.equal((await refused()) - countBefore, reason === undefined ? 0 : 3, 'counted refusals');
    t.equal(service.calls.length, calls, 'no model is called');
    await remove(service, scripted);
    await assertAllFree(t, service);
  });
}

t.test('a question is refused before its stream if the tokens of the owner are used up', async (t) => {
  const service = await bareStreams(t);
  await service.start(OWNER, { maxTokens: 949 });
  for (let i = 0; i < 3; i++) {
    t.match(await refusal(service.start(OWNER, QUESTION)), { statusCode: 429, message: /tokens/ }, 'the refusal');
  }
  t.equal(service.app.streams.active, 1, 'a refused question holds no slot of the process');
  await service.start({ ...OWNER, tokensPerMinute: undefined });
  t.pass('the second slot of the owner is free');
  t.equal(service.calls.length, 2, 'a refused question calls no model');
  finish(service, 0);
  finish(service, 1);
  await assertAllFree(t, service);
});

t.test('a question is refused before its stream after close(), and running ones continue', async (t) => {
  const service = await bareStreams(t);
  const running = await service.start(OWNER, QUESTION);
  service.app.streams.close();
  let isIdle = false;
  void service.app.streams.idle().then(() => (isIdle = true));
  t.match(
    await refusal(service.start(OWNER)),
    { ...OVERLOADED, message: 'The service is shutting down; retry later.', retryAfterMs: 1_000 },
    'the refusal',
  );
  t.equal(await metricValue(service.app, 'sluice_refusals_total', { reason: 'draining' }), 1, 'a counted refusal');
  t.equal(service.calls[0]?.signal.aborted, false, 'the running generation is not aborted');
  t.equal(isIdle, false, 'idle() waits for it');
  t.equal(await service.fits({ ...OWNER, maxConcurrent: undefined }, 1_000 - ESTIMATE), true, 'the tokens are free');
  t.equal(await service.fits(OWNER, 1), true, 'the second slot of the owner is free');
  finish(service, 0);
  t.match(await readAll(running), { terminal: { type: 'end' } }, 'it ends by itself');
  await service.app.streams.idle();
  t.equal(isIdle, true, 'idle() resolves');
  t.equal(await service.fits(OWNER, 1_000), true, 'everything is free');
});

t.test(
  'of several reasons for a refusal the first one counts, and an existing stream needs no admission',
  async (t) => {
    const scripted = scriptedStore();
    const service = await bareStreams(t, { store: scripted.store });
    const identity: Identity = { ...OWNER, maxConcurrent: 1, models: ['small'] };
    const existing = await service.start({ owner: 'a' }, {}, { key: 'known' });
    let question: Parameters<BareStreams['start']>[1] = QUESTION;

    const steps: [name: string, cause: () => unknown, message: RegExp][] = [
      [
        'the store is full',
        () => {
          // Only for the question that is refused; other causes start generations without a key.
          scripted.script.create = (_, idempotency) => idempotency && Promise.reject(new StoreFull());
        },
        /answers are stored/,
      ],
      ['tokens', () => service.start({ ...identity, maxConcurrent: undefined }, { maxTokens: 949 }), /tokens/],
      ['slots of the owner', () => service.start({ owner: 'a', maxConcurrent: 1 }), /your answers are running/],
      ['slots of the process', () => service.start({ owner: 'b' }), /Too many answers are running/],
      ['a drain', () => service.app.streams.close(), /shutting down/],
      ['busy providers', () => (service.world.hasCapacity = false), /Every provider/],
      ['overload', () => (service.world.isOverloaded = true), /is overloaded/],
      ['a conflict', () => (scripted.script.openByKey = reject(new KeyConflict())), /another question/],
      ['a model that the key may not use', () => (question = { model: 'big' }), /may not use/],
      ['an unknown model', () => (question = { model: 'x' }), /Unknown model/],
    ];
    for (const [name, cause, message] of steps) {
      await cause();
      t.match(await refusal(service.start(identity, question, { key: 'new' })), { message }, name);
    }
    const messages = Array.from({ length: 4 }, () => ({ role: 'user' as const, content: 'q' }));
    t.match(
      await refusal(service.start(identity, { messages, model: 'x' }, { key: 'new' })),
      { statusCode: 400, message: 'Too many messages; at most 3 are allowed.' },
      'too many messages',
    );
    delete scripted.script.openByKey;
    const found = await service.start(identity, {}, { key: 'known' });
    t.equal(found.id, existing.id, 'the stream of a known key is found in spite of all that');
  },
);

t.test('a question that another replica has started in the meantime gives everything back', async (t) => {
  const scripted = scriptedStore();
  const service = await bareStreams(t, { store: scripted.store });
  const { log } = await scripted.memory.create({ id: 'other', model: 'small', graceMs: 0, owner: 'a' });
  scripted.script.create = async () => ({ created: false, log });
  for (let i = 0; i < 10; i++) {
    const stream = await service.start(OWNER, QUESTION, { key: 'k' });
    t.equal(stream.id, 'other', 'the existing stream');
  }
  t.equal(service.calls.length, 0, 'no model is called');
  delete scripted.script.create;
  await assertAllFree(t, service);
});

t.test('of concurrent questions with one key one starts, and the others give everything back', async (t) => {
  const service = await bareStreams(t);
  const wide: Identity = { ...OWNER, maxConcurrent: 4 };
  const found = await Promise.all(
    Array.from({ length: 4 }, () => service.start(wide, { maxTokens: 99 }, { key: 'k' })),
  );
  t.equal(new Set(found.map(({ id }) => id)).size, 1, 'one stream');
  t.equal(service.calls.length, 1, 'one model is called');
  t.equal(service.app.streams.active, 1, 'one slot of the process');
  t.equal(await service.fits(wide, 900), true, 'the tokens of one question');
  t.equal(await service.fits(wide, 901), false, 'exactly');
  finish(service, 0);
  await assertAllFree(t, service);
});

t.test('without a key every question starts a stream of its own', async (t) => {
  const scripted = scriptedStore();
  scripted.script.openByKey = reject(new Error('no look-up is needed'));
  const service = await bareStreams(t, { store: scripted.store });
  const ids = new Set([(await service.start(OWNER, QUESTION)).id, (await service.start(OWNER, QUESTION)).id]);
  t.equal(ids.size, 2);
  for (const id of ids) t.ok(Buffer.from(id, 'base64url').length >= 16, 'an id of at least 128 bits');
});

t.test('an idempotency key belongs to its owner and to one question', async (t) => {
  const service = await bareStreams(t, { maxGenerations: 100 });
  const ask = (owner: string, question = {}) => service.start({ owner }, question, { key: 'k' });
  const first = await ask('a', { temperature: 1, maxTokens: 5 });
  t.equal(first.caller.owner, 'a');
  t.equal((await ask('a', { maxTokens: 5, temperature: 1 })).id, first.id, 'the order of fields does not matter');
  const other = await ask('b', { temperature: 1, maxTokens: 5 });
  t.not(other.id, first.id, 'another owner gets another stream for the same key and question');
  t.equal(other.caller.owner, 'b');
  t.not((await ask('c', { temperature: 2 })).id, first.id, 'and may use the key for another question');
  for (const [name, question] of Object.entries({
    'another temperature': { temperature: 2, maxTokens: 5 },
    'one field less': { temperature: 1 },
    'another model': { model: 'big', temperature: 1, maxTokens: 5 },
    'another message': { messages: [{ role: 'user' as const, content: 'x' }], temperature: 1, maxTokens: 5 },
    'messages in another order': {
      messages: [
        { role: 'user' as const, content: 'ab' },
        { role: 'system' as const, content: 'x' },
      ],
      temperature: 1,
      maxTokens: 5,
    },
  })) {
    t.match(await refusal(ask('a', question)), CONFLICT, name);
  }
  t.equal((await ask('a', { model: 'small', temperature: 1, maxTokens: 5 })).id, first.id, 'the default model by name');
  // Names of owners and keys are chosen by clients: they must not run together.
  const joined = await service.start({ owner: 'd' }, {}, { key: 'ek' });
  t.not((await service.start({ owner: 'de' }, {}, { key: 'k' })).id, joined.id, 'owner and key do not run together');
});

t.test('a conversation belongs to its owner, and is found while its newest answer runs', async (t) => {
  const service = await bareStreams(t);
  const { streams } = service.app;
  const chat = (owner: string) => service.start({ owner }, {}, { chat: 'c' });
  const ofA = await chat('a');
  t.equal(await streams.findByChat('c', { owner: 'b' }), undefined, 'the conversation of another owner');
  const ofB = await chat('b');
  t.equal((await streams.findByChat('c', { owner: 'a' }))?.id, ofA.id, 'each owner finds its own');
  t.equal((await streams.findByChat('c', { owner: 'b' }))?.id, ofB.id, 'each owner finds its own');
  finish(service, 0);
  t.equal(await streams.findByChat('c', { owner: 'a' }), undefined, 'an ended answer');
});

const ticketOf = (nonce: string) => ({ nonce, expires: Date.now() + 60_000, questions: 1 });

t.test('a stream is found by its owner, and by the ticket that started it', async (t) => {
  const service = await bareStreams(t);
  const { streams } = service.app;
  const { id } = await service.start({ owner: 'a', ticket: ticketOf('t1') });
  const isFound = async (identity: Identity) => (await streams.find(id, identity)) !== undefined;
  t.equal(await isFound({ owner: 'a' }), true, 'the owner with a key');
  t.equal(await isFound({ owner: 'a', ticket: ticketOf('t1') }), true, 'its ticket');
  t.equal(await isFound({ owner: 'a', ticket: ticketOf('t2') }), false, 'another ticket of the owner');
  t.equal(await isFound({ owner: 'b' }), false, 'another owner');
  t.equal(await isFound({ owner: 'b', ticket: ticketOf('t1') }), false, 'a ticket of the same name of another owner');
  const { id: withoutTicket } = await service.start({ owner: 'a' });
  t.equal(
    await streams.find(withoutTicket, { owner: 'a', ticket: ticketOf('t1') }),
    undefined,
    'a ticket does not find a stream that was started with the key',
  );
});
