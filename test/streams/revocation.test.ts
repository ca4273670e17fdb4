import t, { type Test } from 'tap';
import type { Credential } from '../../plugins/auth/revocation.ts';
import type { Stream } from '../../plugins/streams/api.ts';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import type { StreamStore } from '../../plugins/streams/types.ts';
import { deferred } from '../helper.ts';
import { refusal } from '../limits/bare-limits.ts';
import { manualClock } from '../manual-clock.ts';
import { metricValue } from '../metric-value.ts';
import { type BareStreams, bareStreams, countFreeSlots, finish, MAX_GENERATIONS, readAll } from './bare-streams.ts';

/** A credential that is revoked ends its readers and its generations, and nothing else. */

const REVOKED = { type: 'error', code: 'revoked', retryable: false, status: 401 };
const LIMITS = { maxConcurrent: 1, tokensPerMinute: 10_000 };
/** Charged for a question with `maxTokens: 999`. */
const ESTIMATE = 1_000;

const ticketOf = (nonce?: string) =>
  nonce === undefined ? undefined : { nonce, expires: Number.MAX_SAFE_INTEGER, questions: 1 };
const caller = (owner: string, credential: Credential, ticket?: string) => ({
  owner,
  credential,
  ticket: ticketOf(ticket),
  ...LIMITS,
});
const say = ({ calls }: BareStreams, n: number, text: string) => void calls[n]?.sink.onPart({ type: 'text', text });

/** Attaches a reader, and collects what it gets. */
async function follow(stream: Stream) {
  const reader = await stream.read(0);
  if (reader === undefined) throw new Error('no such position');
  const got: { text: string; terminal: object | undefined } = { text: '', terminal: undefined };
  const done = (async () => {
    while (got.terminal === undefined) {
      const { parts, terminal } = await reader.next();
      for (const { part } of parts) if (part.type === 'text') got.text += part.text;
      got.terminal = terminal;
    }
    reader.close();
  })();
  return { got, done, close: () => reader.close() };
}

/** Asserts that the owner has paid `tokens`, and that no slot is held. */
async function assertReleased(t: Test, service: BareStreams, owner: string, tokens: number): Promise<void> {
  const identity = { owner, ...LIMITS };
  t.equal(service.app.streams.active, 0, 'no generation is active');
  t.equal(await service.fits(identity, LIMITS.tokensPerMinute - tokens), true, `at most ${tokens} tokens are charged`);
  // A question beyond the limit is accepted if no tokens are in use.
  const isMoreAccepted = await service.fits(identity, LIMITS.tokensPerMinute - tokens + 1);
  t.equal(isMoreAccepted, tokens === 0, `${tokens} tokens are charged`);
  t.equal(await countFreeSlots(service), MAX_GENERATIONS, 'all slots of the process are free, and not one more');
  t.equal(await metricValue(service.app, 'sluice_generations_active'), 0);
}

t.test('a revoked key ends its answers and readers at once; those of other keys go on', async (t) => {
  const service = await bareStreams(t);
  const both = service.accept('a', 'b');
  let held = 0;
  const hold = () => {
    held += 1;
    return () => {
      held -= 1;
    };
  };
  const a = await service.start(caller('a', both('a')), { maxTokens: 999 }, { bodyClaim: { hold } as never });
  const b = await service.start(caller('b', both('b')), { maxTokens: 999 });
  const [readerOfA, otherReaderOfA, readerOfB] = [await follow(a), await follow(a), await follow(b)];
  say(service, 0, 'one');
  say(service, 1, 'two');
  service.accept('b');
  await Promise.all([readerOfA.done, otherReaderOfA.done]);
  t.match(readerOfA.got.terminal, REVOKED);
  t.match(otherReaderOfA.got.terminal, REVOKED);
  t.equal(service.calls[0]?.signal.aborted, true, 'the call of the model is aborted');
  t.equal(held, 0, 'the memory of the prompt is released');
  t.equal(service.calls[1]?.signal.aborted, false, 'the other one goes on');
  say(service, 1, ' three');
  finish(service, 1);
  await readerOfB.done;
  t.match(readerOfB.got, { text: 'two three', terminal: { type: 'end' } });
  finish(service, 0);
  await assertReleased(t, service, 'a', ESTIMATE);
  t.equal(await metricValue(service.app, 'sluice_readers'), 0, 'no reader is counted');
  const outcome = 'sluice_generations_total{model="small",target="p/small",outcome="revoked"}';
  t.match(await service.app.metrics.text(), `${outcome} 1`);
  t.match(await service.app.metrics.text(), 'sluice_generations_aborted_total{reason="revoked"} 1');
});

t.test('a reader of an answer that goes on, and of one that has ended, ends alone', async (t) => {
  const service = await bareStreams(t);
  const both = service.accept('old', 'new');
  const running = await service.start(caller('a', both('new')));
  say(service, 0, 'x');
  finish(service, await startAnother(service, both('new')));
  const ended = (await service.start(caller('b', both('new')), {}, { key: 'k' })) as Stream;
  const find = async ({ id }: Stream, owner: string, name: string) =>
    (await service.app.streams.find(id, caller(owner, both(name)))) as Stream;
  const reader = await follow(await find(running, 'a', 'old'));
  const other = await follow(await find(running, 'a', 'new'));
  const late = await (await find(ended, 'b', 'old')).read(0);
  service.accept('new');
  await reader.done;
  t.match(reader.got.terminal, REVOKED, 'the reader with the revoked key');
  t.match(await late?.next(), { parts: [], terminal: REVOKED }, 'one that has not read yet what is stored');
  say(service, 0, 'y');
  finish(service, 0);
  await other.done;
  t.match(other.got, { text: 'xy', terminal: { type: 'end' } }, 'the other reader gets all of the answer');
});

/** Starts an answer of the owner `b`, with the key `k`. Returns the number of its call. */
async function startAnother(service: BareStreams, credential: Credential): Promise<number> {
  await service.start(caller('b', credential), {}, { key: 'k' });
  return service.calls.length - 1;
}

t.test('a reader that attaches with a revoked key gets nothing but the error', async (t) => {
  const service = await bareStreams(t);
  const identity = caller('a', service.accept('a')('a'));
  const stream = await service.start({ owner: 'a' });
  say(service, 0, 'secret');
  const found = (await service.app.streams.find(stream.id, identity)) as Stream;
  service.accept();
  t.match(await readAll(found), { text: '', terminal: REVOKED as never });
  t.equal(await metricValue(service.app, 'sluice_readers'), 0, 'it is not counted');
});

t.test('a request whose key is revoked before its question arrives is refused', async (t) => {
  const service = await bareStreams(t);
  const identity = caller('a', service.accept('a')('a'));
  service.accept();
  t.match(await refusal(service.start(identity)), { statusCode: 401 });
  t.equal(service.calls.length, 0, 'no model is asked');
  await assertReleased(t, service, 'a', 0);
});

t.test(
  'a question whose key is revoked while its stream is created ends at once, and releases everything',
  async (t) => {
    const memory = new MemoryStore({
      clock: manualClock(),
      highWaterMark: 1_000,
      flushMs: 0,
      ttlMs: 1_000,
      maxTotalBytes: 1e9,
      onEvicted() {},
    });
    const [created, proceed] = [deferred(), deferred()];
    const store: StreamStore = {
      async create(info, idempotency) {
        const result = await memory.create(info, idempotency);
        created.resolve();
        await proceed.promise;
        return result;
      },
      openByKey: async () => undefined,
      openByChat: async () => undefined,
      open: (id) => memory.open(id),
      close: () => memory.close(),
    };
    const service = await bareStreams(t, { store });
    const identity = caller('a', service.accept('a')('a'));
    const starting = service.start(identity, { maxTokens: 999 });
    await created.promise;
    service.accept();
    proceed.resolve();
    const stream = await starting;
    t.equal(service.calls[0]?.signal.aborted ?? true, true, 'its call is aborted');
    t.match((await readAll(stream)).terminal, REVOKED);
    finish(service, 0);
    await assertReleased(t, service, 'a', ESTIMATE);
  },
);

t.test('what has ended by itself no longer waits for the revocation', async (t) => {
  const service = await bareStreams(t);
  const credential = service.accept('a')('a');
  let listeners = 0;
  const counted = {
    mark: credential.mark,
    isRevoked: false,
    onRevoked(listener: () => void) {
      listeners += 1;
      const remove = credential.onRevoked(listener);
      return () => {
        listeners -= 1;
        remove();
      };
    },
  };
  const stream = await service.start(caller('a', counted));
  const reader = await follow(stream);
  t.equal(listeners, 2, 'the answer and its reader wait for it');
  reader.close();
  t.equal(listeners, 1, 'a reader that leaves does not');
  finish(service, 0);
  t.equal(listeners, 0, 'nor does an answer that has ended');
  const failing = service.calls.push.bind(service.calls);
  service.calls.push = () => {
    throw new TypeError('a model that throws when it is called');
  };
  await service.start(caller('a', counted), {}, { resumable: false });
  service.calls.push = failing;
  t.equal(listeners, 0, 'nor does one that could not start');
});
