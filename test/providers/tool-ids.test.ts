import fc from 'fast-check';
import t from 'tap';
import type { ChatMessage } from '../../providers/types.ts';
import {
  ANTHROPIC_TOOL_IDS,
  ANY_TOOL_ID,
  MISTRAL_TOOL_IDS,
  OPENAI_TOOL_IDS,
  RESPONSES_TOOL_IDS,
  withToolIds,
} from '../../providers/wire/tool-ids.ts';
import { SEED } from './random.ts';

/** Tests the ids of tool calls that came from another provider. */

const RULES = {
  anthropic: [ANTHROPIC_TOOL_IDS, /^[a-zA-Z0-9_-]{1,64}$/],
  openai: [OPENAI_TOOL_IDS, /^.{1,40}$/s],
  responses: [RESPONSES_TOOL_IDS, /^.{1,64}$/s],
  gateway: [ANY_TOOL_ID, /^/],
  mistral: [MISTRAL_TOOL_IDS, /^[a-zA-Z0-9]{9}$/],
} as const;

const conversation = (ids: readonly string[]): ChatMessage[] => [
  { role: 'user', content: 'q' },
  { role: 'assistant', content: '', toolCalls: ids.map((id) => ({ id, name: 'f', arguments: '{}' })) },
  ...ids.map((toolCallId): ChatMessage => ({ role: 'tool', toolCallId, name: 'f', content: 'r' })),
];

/** Returns the ids of the calls and those of the results. */
function idsOf(messages: readonly ChatMessage[]): [string[], string[]] {
  const calls = messages.flatMap((message) => (message.role === 'assistant' ? (message.toolCalls ?? []) : []));
  return [
    calls.map(({ id }) => id),
    messages.flatMap((message) => (message.role === 'tool' ? [message.toolCallId] : [])),
  ];
}

t.test(
  'every id becomes one that the provider accepts, the same in call and result, and no two become one',
  async (t) => {
    for (const [name, [rule, accepted]] of Object.entries(RULES)) {
      fc.assert(
        fc.property(fc.uniqueArray(fc.string({ minLength: 1, maxLength: 200, unit: 'binary' })), (ids) => {
          const [calls, results] = idsOf(withToolIds(conversation(ids), rule));
          const isAccepted = calls.every((id) => accepted.test(id));
          return isAccepted && new Set(calls).size === ids.length && JSON.stringify(calls) === JSON.stringify(results);
        }),
        { seed: SEED },
      );
      t.pass(name);
    }
  },
);

t.test('an id that the provider accepts stays as it is', async (t) => {
  for (const [id, rule] of [
    ['toolu_01A', ANTHROPIC_TOOL_IDS],
    ['functions.f:0', OPENAI_TOOL_IDS],
    ['a'.repeat(40), OPENAI_TOOL_IDS],
    ['a'.repeat(64), RESPONSES_TOOL_IDS],
    ['a'.repeat(65_536), ANY_TOOL_ID],
    ['Abc012xyZ', MISTRAL_TOOL_IDS],
  ] as const) {
    t.same(withToolIds(conversation([id]), rule), conversation([id]), id);
  }
  const [[changed]] = idsOf(withToolIds(conversation(['a'.repeat(41)]), OPENAI_TOOL_IDS));
  t.match(changed, /^[a-zA-Z0-9]{24}$/);
});

t.test('a provider gets a long id back that it has made, whatever its rule says', async (t) => {
  const id = `call_${'s'.repeat(4_567)}`;
  const messages = conversation([id, 'short']).map((message) =>
    message.role === 'assistant' ? { ...message, state: { provider: 'p', extraContent: { 0: {} } } } : message,
  );
  for (const [name, [rule]] of Object.entries(RULES)) {
    const [calls, results] = idsOf(withToolIds(messages, rule));
    t.equal(calls[0], id, name);
    t.same(results, calls, name);
  }
});

t.test('messages without tool calls are not changed', async (t) => {
  const messages: ChatMessage[] = [
    { role: 'system', content: 's' },
    { role: 'assistant', content: 'a' },
  ];
  t.same(withToolIds(messages, MISTRAL_TOOL_IDS), messages);
});
