import t from 'tap';
import { createAnswerStates } from '../../plugins/streams/answer-states.ts';
import type { ChatMessage, ProviderState } from '../../providers/types.ts';
import { manualClock } from '../manual-clock.ts';

/** Tests the state that is kept for clients that do not return it. Redis is tested in `sdk/state.test.ts`. */

const TTL_MS = 1_000;
const STATE: ProviderState = { provider: 'p', details: [{ type: 'reasoning.encrypted', data: 'SIGNATURE' }] };

const called = (...ids: string[]): ChatMessage => ({
  role: 'assistant',
  content: '',
  toolCalls: ids.map((id) => ({ id, name: 'f', arguments: '{}' })),
});
const USER: ChatMessage = { role: 'user', content: 'q' };

function setUp() {
  const clock = manualClock();
  return { clock, states: createAnswerStates({ ttlMs: TTL_MS, clock, cluster: undefined }) };
}

t.test('tool calls that come back without their state get it again', async (t) => {
  const { states } = setUp();
  states.save('owner', ['a', 'b'], STATE);
  const messages = [USER, called('a', 'b'), called('b'), called('c')];
  t.ok(states.isMissing(messages));
  t.same(await states.restore('owner', messages), [
    USER,
    { ...called('a', 'b'), state: STATE },
    { ...called('b'), state: STATE },
    called('c'),
  ]);
  t.same(await states.restore('another owner', messages), messages, 'only for the owner of the stream');
});

t.test('a message with its state, or without tool calls, needs nothing', async (t) => {
  const { states } = setUp();
  const own = { ...called('a'), state: { ...STATE, provider: 'other' } } as ChatMessage;
  t.notOk(states.isMissing([USER, own, { role: 'assistant', content: 'x' }]));
  states.save('owner', ['a'], STATE);
  t.same(await states.restore('owner', [own, called('b')]), [own, called('b')], 'what the client sends wins');
});

t.test('a state is kept as long as its stream', async (t) => {
  const { clock, states } = setUp();
  states.save('owner', ['a'], STATE);
  clock.advance(TTL_MS - 1);
  states.save('owner', ['b'], STATE);
  t.match(await states.restore('owner', [called('a')]), [{ state: STATE }]);
  clock.advance(1);
  t.same(await states.restore('owner', [called('a')]), [called('a')]);
  t.match(await states.restore('owner', [called('b')]), [{ state: STATE }]);
});

t.test('a saved state that is saved again is kept longer', async (t) => {
  const { clock, states } = setUp();
  states.save('owner', ['a'], STATE);
  clock.advance(TTL_MS - 1);
  states.save('owner', ['a'], STATE);
  clock.advance(TTL_MS - 1);
  t.match(await states.restore('owner', [called('a')]), [{ state: STATE }]);
});

t.test('the memory of kept states is bounded: the oldest go first, and the longest are not kept', async (t) => {
  const { states } = setUp();
  const large = (chars: number) => ({ provider: 'p', details: [{ type: 'x', data: 'x'.repeat(chars) }] });
  states.save('owner', ['too long'], large(1_048_576));
  t.same(await states.restore('owner', [called('too long')]), [called('too long')]);
  const ids = Array.from({ length: 40 }, (_, i) => `id${i}`);
  for (const id of ids) states.save('owner', [id], large(1_000_000));
  const restored = await states.restore(
    'owner',
    ids.map((id) => called(id)),
  );
  const kept = restored.map((message) => 'state' in message);
  t.equal(kept.filter(Boolean).length, 33, 'as many as fit into 32 Mi characters');
  t.same(kept, [...kept].sort(), 'the newest');
});
