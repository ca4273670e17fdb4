import t from 'tap';
import type { Prompt } from '../../plugins/llm/client.ts';
import { AnswerProgress } from '../../plugins/llm/continuation.ts';
import type { StreamPart } from '../../providers/types.ts';
import { emptyBudget, setUp } from './client.ts';
import { ANSWER, type FakeProvider, FINISH, fake, fault, SERVER_ERROR, TOOL_CALL, textPart } from './fake-provider.ts';

/** Tests what another target is sent when it continues an answer. */

const QUESTION = { role: 'user', content: 'q' };
const route = { onMidStreamFailure: 'continue' as const, continuePrompt: 'Weiter.' };
const continued = (text: string) => [
  QUESTION,
  { role: 'assistant', content: text },
  { role: 'user', content: 'Weiter.' },
];
/** Breaks off behind these texts. */
const breaksAfter = (...texts: string[]) => [...texts.map(textPart), SERVER_ERROR];
const messagesOf = (provider: FakeProvider, call = 0) => provider.requests[call]?.messages;

t.test('the next target continues the text', async (t) => {
  const a = fake('a', [breaksAfter('one ', 'two ')]);
  const b = fake('b', [[textPart('three'), FINISH]]);
  const { generate, metric } = setUp([a, b], { route });
  const { text, called, finish, fault: reported, begun } = await generate();
  t.equal(text, 'one two three');
  t.equal(reported, undefined);
  t.same(called, ['a', 'b'], 'the target that broke off is not called again');
  t.same(messagesOf(b), continued('one two '));
  t.same(finish, { ...FINISH, targets: ['a/m', 'b/m'] }, 'the finish part names both');
  t.equal(begun, 2, 'the first part of each call is reported');
  t.equal(await metric('sluice_continuations_total', { from: 'a', to: 'b' }), 1);
  t.equal(await metric('sluice_fallbacks_total'), 0);
});

t.test('a second break goes on behind the text of both targets', async (t) => {
  const a = fake('a', [breaksAfter('one ')]);
  const b = fake('b', [breaksAfter('two ')]);
  const c = fake('c', [breaksAfter('three ')]);
  const d = fake('d', [[textPart('four'), FINISH]]);
  const { generate, metric } = setUp([a, b, c, d], { route });
  const { text, finish } = await generate();
  t.equal(text, 'one two three four');
  t.same(messagesOf(b), continued('one '));
  t.same(messagesOf(c), continued('one two '), 'the text of the first target is not forgotten');
  t.same(messagesOf(d), continued('one two three '), 'instructions are not repeated');
  t.same(finish, { ...FINISH, targets: ['a/m', 'b/m', 'c/m', 'd/m'] });
  t.equal(await metric('sluice_continuations_total'), 3);
});

t.test('a break in the continuation of a stored answer goes on behind the stored text', async (t) => {
  const a = fake('a', [breaksAfter('one ')]);
  const b = fake('b', [[textPart('two'), FINISH]]);
  const { generate } = setUp([a, b], { route });
  const { text, finish } = await generate({ partialAnswer: 'zero ' });
  t.equal(text, 'one two', 'only new text is delivered');
  t.same(messagesOf(a), continued('zero '));
  t.same(messagesOf(b), continued('zero one '));
  t.match(finish, { targets: ['a/m', 'b/m'] });
});

t.test('a stored answer is continued by targets that support it, also without continue', async (t) => {
  const demo = fake('demo', [ANSWER], false);
  const b = fake('b', [[textPart('two'), SERVER_ERROR]]);
  const c = fake('c', [ANSWER]);
  const { generate } = setUp([demo, b, c], { route: { continuePrompt: 'Weiter.' } });
  const { called, fault: reported } = await generate({ partialAnswer: 'one ' });
  t.same(called, ['b'], 'the first target does not support continuation');
  t.same(messagesOf(b), continued('one '));
  t.equal(reported, SERVER_ERROR, 'without continue, a break is an error');

  const none = setUp([demo], { route });
  t.match((await none.generate({ partialAnswer: 'one ' })).fault, { name: 'ProviderError', retryable: true });
  const fallback = setUp([fake('a', [[SERVER_ERROR]]), demo, fake('c', [ANSWER])], { route });
  t.same((await fallback.generate({ partialAnswer: 'x' })).called, ['a', 'c'], 'a fallback supports it, too');
});

t.test('an empty stored answer starts over', async (t) => {
  const demo = fake('demo', [ANSWER], false);
  const { generate } = setUp([demo], { route });
  t.equal((await generate({ partialAnswer: '' })).text, 'whole');
  t.same(messagesOf(demo), [QUESTION]);
});

t.test('fallbacks of a continuation get the same text', async (t) => {
  const a = fake('a', [breaksAfter('one ')]);
  const demo = fake('demo', [ANSWER], false);
  const b = fake('b', [[SERVER_ERROR]]);
  const c = fake('c', [[textPart('two'), FINISH]]);
  const { generate, metric } = setUp([a, demo, b, demo, c], { route });
  const { called, text, finish } = await generate();
  t.equal(text, 'one two');
  t.same(called, ['a', 'b', 'c'], 'targets without support for continuation are skipped');
  for (const messages of [messagesOf(b), messagesOf(c)]) t.same(messages, continued('one '));
  t.match(finish, { targets: ['a/m', 'c/m'] }, 'a target without content has not answered');
  t.equal(await metric('sluice_continuations_total', { from: 'a', to: 'b' }), 1);
  t.equal(await metric('sluice_fallbacks_total', { from: 'b', to: 'c' }), 1);
});

t.test('a target that adds nothing to an answer is not named', async (t) => {
  const { generate } = setUp([fake('a', [breaksAfter('one')]), fake('b', [[FINISH]])], { route });
  t.same((await generate()).finish, FINISH);
});

t.test('an answer with only reasoning starts over on a target that supports continuation', async (t) => {
  const reasoning: StreamPart = { type: 'reasoning', text: 'hm' };
  const demo = fake('demo', [ANSWER], false);
  const c = fake('c', [ANSWER]);
  const { generate } = setUp([fake('a', [[reasoning, SERVER_ERROR]]), demo, c], { route });
  const { called, text } = await generate();
  t.equal(text, 'whole');
  t.same(called, ['a', 'c']);
  t.same(messagesOf(c), [QUESTION], 'no empty assistant message is sent');
});

t.test('reasoning is no part of the text that is continued', async (t) => {
  const reasoning: StreamPart = { type: 'reasoning', text: 'hm' };
  const b = fake('b', [ANSWER]);
  await setUp([fake('a', [[reasoning, textPart('one '), SERVER_ERROR]]), b], { route }).generate();
  t.same(messagesOf(b), continued('one '));
});

t.test('an answer is not continued after these breaks', async (t) => {
  const total = fault('upstream_timeout', { stage: 'total' });
  const bug = new Error('bug');
  const cases: [string, (StreamPart | Error)[], Error][] = [
    ['a tool call', [textPart('x'), TOOL_CALL, SERVER_ERROR], SERVER_ERROR],
    ['text behind a tool call', [TOOL_CALL, textPart('x'), SERVER_ERROR], SERVER_ERROR],
    ['the total deadline', [textPart('x'), total], total],
    ['an error of this service', [textPart('x'), bug], bug],
  ];
  for (const [name, script, error] of cases) {
    const b = fake('b', [ANSWER]);
    t.equal((await setUp([fake('a', [script]), b], { route }).generate()).fault, error, name);
    t.equal(b.requests.length, 0, `${name}: no other target is called`);
  }
  const single = setUp([fake('a', [breaksAfter('x')])], { route });
  t.equal((await single.generate()).fault, SERVER_ERROR, 'of the only target');
  const tooLate = setUp([fake('a', [[textPart('x'), TOOL_CALL, SERVER_ERROR]]), fake('b', [ANSWER])], { route });
  t.equal((await tooLate.generate({ partialAnswer: 'x' })).fault, SERVER_ERROR, 'of a continuation with a tool call');
});

t.test('an idle answer is continued, and its error is reported if no target is left', async (t) => {
  const b = fake('b', [[textPart('y'), 'silence']]);
  const deadlines = { firstTokenMs: 60_000, idleMs: 2_000, thinkingMs: 300_000, totalMs: 600_000 };
  const { generate } = setUp([fake('a', [[textPart('x'), 'silence']]), b], { route: { ...route, deadlines } });
  const { text, fault: reported } = await generate();
  t.equal(text, 'xy');
  t.match(reported, { code: 'upstream_timeout', stage: 'idle' });
});

t.test('a continuation needs no retry budget, and a retry of it gets the same text', async (t) => {
  const b = fake('b', [[SERVER_ERROR], [textPart('y'), FINISH]]);
  const { generate, budget, metric } = setUp([fake('a', [breaksAfter('x')]), b], { route });
  emptyBudget(budget);
  t.match(await generate(), { text: 'x', fault: SERVER_ERROR, called: ['a', 'b'] }, 'the retry is denied');
  t.equal(await metric('sluice_continuations_total'), 1);
  const retried = setUp([fake('a', [breaksAfter('x')]), fake('b', [[SERVER_ERROR], [textPart('y'), FINISH]])], {
    route,
  });
  t.match(await retried.generate(), { text: 'xy', called: ['a', 'b', 'b'] });
});

const usage = { inputTokens: 100, outputTokens: 7, totalTokens: 107, cachedTokens: 3 };

t.test('the token limit of a continuation is lowered by what was said', async (t) => {
  const prompt = { messages: [QUESTION as { role: 'user'; content: string }], maxTokens: 20 };
  const a = fake('a', [breaksAfter('12345678', '1234')]);
  const b = fake('b', [breaksAfter('1')]);
  const c = fake('c', [breaksAfter('x'.repeat(400))]);
  const d = fake('d', [ANSWER]);
  await setUp([a, b, c, d], { route }).generate({ prompt });
  const limits = [a, b, c, d].map(({ requests }) => requests[0]?.maxTokens);
  t.same(limits, [20, 17, 16, 1], 'four characters count as a token; at least one token is left');
  const stored = fake('a', [ANSWER]);
  await setUp([stored], { route }).generate({ prompt, partialAnswer: '12345678' });
  t.equal(stored.requests[0]?.maxTokens, 18, 'a stored answer counts, too');
  const settings = { defaults: { max_tokens: 10 } };
  const limitOf = async (call: string[]) => {
    const second = fake('b', [ANSWER]);
    await setUp([fake('a', [breaksAfter(...call)]), second], { route: { ...route, settings } }).generate();
    return second.requests[0]?.maxTokens;
  };
  t.equal(await limitOf(['1234']), 9, 'a limit of the operator');
  const unlimited = fake('b', [ANSWER]);
  await setUp([fake('a', [breaksAfter('x')]), unlimited], { route }).generate();
  t.notOk('maxTokens' in (unlimited.requests[0] ?? {}), 'without a limit there is none');
  const fallback = fake('b', [ANSWER]);
  await setUp([fake('a', [[SERVER_ERROR]]), fallback], { route }).generate({ prompt });
  t.equal(fallback.requests[0]?.maxTokens, 20, 'a fallback before any content has the whole limit');
});

t.test('the usage of a continued answer is that of all targets', async (t) => {
  const reasoning: StreamPart = { type: 'reasoning', text: '1234' };
  const a = fake('a', [[reasoning, textPart('x'.repeat(40)), SERVER_ERROR]]);
  const b = fake('b', [breaksAfter('x'.repeat(20))]);
  const ends = (usage: object) => fake('c', [[textPart('y'), { ...FINISH, usage } as StreamPart]]);
  const { finish } = await setUp([a, b, ends(usage)], { route }).generate();
  // a: 11 tokens out, 100 - 15 in; b: 5 out, 100 - 5 in.
  t.same(finish?.usage, { inputTokens: 280, outputTokens: 23, totalTokens: 303, cachedTokens: 3 });
  const half = await setUp([fake('a', [breaksAfter('1234')]), ends({ outputTokens: 7 })], { route }).generate();
  t.same(half.finish?.usage, { outputTokens: 8 }, 'a count that the last target does not send stays absent');
  const none = await setUp([fake('a', [breaksAfter('1234')]), fake('c', [ANSWER])], { route }).generate();
  t.notOk(none.finish && 'usage' in none.finish);
  const single = await setUp([ends(usage)], { route }).generate();
  t.same(single.finish?.usage, usage, 'of one target: as the provider says');
  const stored = await setUp([ends(usage)], { route }).generate({ partialAnswer: '12345678' });
  t.same(stored.finish?.usage, { inputTokens: 198, outputTokens: 9, totalTokens: 207, cachedTokens: 3 });
});

t.test('the prompt of a running answer is held only if a target may continue it', async (t) => {
  const prompt: Prompt = { messages: [{ role: 'user', content: 'q' }] };
  const target = { provider: 'a', model: 'm' };
  const settings = (onMidStreamFailure: 'error' | 'continue') => ({
    ...setUp([fake('a', [])]).route,
    onMidStreamFailure,
  });
  const text = { type: 'text', text: 'x' } as const;
  const plain = new AnswerProgress(settings('error'), prompt, '');
  t.equal(plain.prompt, prompt);
  plain.begin(target, text);
  t.equal(plain.prompt, undefined, 'dropped with the first part');
  const continued = new AnswerProgress(settings('continue'), prompt, '');
  continued.begin(target, text);
  t.equal(continued.prompt, prompt);
  continued.add({ type: 'tool_call', index: 0, name: 'f', arguments: '' });
  t.equal(continued.prompt, undefined, 'dropped with a tool call');
});
