import t from 'tap';
import type { ChatMessage, ChatRequest, ProviderState } from '../../providers/types.ts';
import { setUp } from './client.ts';
import { ANSWER, type FakeProvider, FINISH, fake, SERVER_ERROR, TOOL_CALL, textPart } from './fake-provider.ts';

/** Tests which targets get a request with options, and what reaches them. */

/** A provider that cannot express some options. */
function limited(provider: FakeProvider, ...names: string[]): FakeProvider {
  return {
    ...provider,
    unsupported: ({ options = {}, temperature }: ChatRequest) =>
      names.find((name) => name in options || (name === 'temperature' && temperature !== undefined)),
  };
}

const prompt = (options: Record<string, unknown>) => ({ messages: [{ role: 'user', content: 'q' } as const], options });

t.test('a target that cannot express an option is passed over', async (t) => {
  const { generate, unsupported } = setUp([limited(fake('a', [ANSWER]), 'seed'), fake('b', [ANSWER])]);
  t.equal(unsupported(prompt({ seed: 1 })), undefined);
  t.same((await generate({ prompt: prompt({ seed: 1 }) })).called, ['b']);
  t.same((await generate({ prompt: prompt({ top_k: 1 }) })).called, ['a']);
});

t.test('so is a fallback, and the next one is asked', async (t) => {
  const providers = [fake('a', [[SERVER_ERROR]]), limited(fake('b', [ANSWER]), 'seed'), fake('c', [ANSWER])];
  const outcome = await setUp(providers).generate({ prompt: prompt({ seed: 1 }) });
  t.same(outcome.called.slice(-1), ['c']);
  t.notOk(outcome.called.includes('b'));
});

t.test('so is a target that would continue an answer', async (t) => {
  const cut = [textPart('half'), SERVER_ERROR];
  const providers = [fake('a', [cut]), limited(fake('b', [ANSWER]), 'seed'), fake('c', [ANSWER])];
  const { generate } = setUp(providers, { route: { onMidStreamFailure: 'continue' } });
  const { called, finish } = await generate({ prompt: prompt({ seed: 1 }) });
  t.same(called, ['a', 'c']);
  t.same(finish?.targets, ['a/m', 'c/m']);
});

t.test('if no target can express an option, the first name is reported and nobody is asked', async (t) => {
  const { generate, unsupported } = setUp([
    limited(fake('a', [ANSWER]), 'seed', 'top_k'),
    limited(fake('b', [ANSWER]), 'seed'),
  ]);
  t.equal(unsupported(prompt({ seed: 1, top_k: 1 })), 'seed');
  t.equal(unsupported(prompt({ top_k: 1 })), undefined, 'the second target can');
  const { called, fault } = await generate({ prompt: prompt({ seed: 1 }) });
  t.same(called, []);
  t.match(fault, { code: 'upstream_rejected', status: 400, retryable: false });
});

t.test('the settings of the route and of the provider decide what a target is asked for', async (t) => {
  const provider = { ...fake('a', [ANSWER]), settings: { drop: ['seed'], defaults: { temperature: 0.5 } } };
  const settings = { defaults: { max_tokens: 9 }, forward: ['num_ctx'] };
  const { generate, unsupported } = setUp([limited(provider, 'seed')], { route: { settings } });
  t.equal(unsupported(prompt({ seed: 1 })), undefined, 'a dropped option needs no support');
  await generate({ prompt: prompt({ seed: 1, num_ctx: 2 }) });
  t.match(provider.requests, [{ temperature: 0.5, maxTokens: 9, options: { num_ctx: 2 }, forward: ['num_ctx'] }]);
  t.notOk('seed' in (provider.requests[0]?.options ?? {}));

  const strict = limited({ ...provider, settings: { defaults: { temperature: 1 } } }, 'temperature');
  t.equal(setUp([strict]).unsupported(prompt({})), 'temperature', 'defaults count as well');
});

const STATE: ProviderState = { provider: 'a', details: [{ type: 'reasoning.encrypted', data: 'SIGNATURE' }] };
const HISTORY: readonly ChatMessage[] = [
  { role: 'user', content: 'q' },
  { role: 'assistant', content: '', toolCalls: [{ id: 'i', name: 'f', arguments: '{}' }], state: STATE },
  { role: 'tool', content: 'r', toolCallId: 'i', name: 'f' },
];

t.test('state goes back to its own provider, and to no other', async (t) => {
  const own = fake('a', [[SERVER_ERROR]]);
  const other = fake('b', [ANSWER]);
  await setUp([own, other]).generate({ prompt: { messages: HISTORY } });
  t.same(own.requests[0]?.messages, HISTORY);
  const [user, { state: _, ...call }, result] = HISTORY as [ChatMessage, { state: unknown } & ChatMessage, ChatMessage];
  t.same(other.requests[0]?.messages, [user, call, result]);
  t.notMatch(JSON.stringify(other.requests), 'SIGNATURE');
});

t.test('the state of an answer gets the name of the provider that gave it', async (t) => {
  const { provider: _, ...state } = STATE;
  const providers = [fake('a', [[SERVER_ERROR]]), fake('b', [[TOOL_CALL, { ...FINISH, state } as never]])];
  const { finish } = await setUp(providers).generate();
  t.same(finish?.state, { ...STATE, provider: 'b' });
});
