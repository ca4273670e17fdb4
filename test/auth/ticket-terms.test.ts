import t from 'tap';
import type { TicketTerms } from '../../plugins/auth/identity.ts';
import { applyTicketTerms } from '../../plugins/auth/ticket-terms.ts';
import { hashQuestion } from '../../plugins/auth/tickets.ts';
import type { ChatMessage } from '../../providers/types.ts';

/** A ticket sets parts of a question, and refuses others. */

type Question = Parameters<typeof applyTicketTerms>[0];

const user = (content: string): ChatMessage => ({ role: 'user', content });
const system = (content: string): ChatMessage => ({ role: 'system', content });
const assistant: ChatMessage = { role: 'assistant', content: 'a' };
const blocks = (...content: object[]) => ({ role: 'user', content }) as ChatMessage;
const Q = hashQuestion('q');
const SYSTEM = /^This ticket allows no system text of the page; leave it out\.$/;
const OTHER = /^This ticket is for another question; request a new one\.$/;
const TOKENS = /^This ticket allows at most 10 tokens; lower maxTokens\.$/;

const cases: [name: string, terms: Partial<TicketTerms>, question: Question, expected: Question | RegExp][] = [
  ['nothing is set', {}, { messages: [user('q')] }, { messages: [user('q')] }],
  [
    'nothing is set, everything is sent',
    {},
    { messages: [system('s'), user('q')], model: 'm', maxTokens: 5 },
    { messages: [system('s'), user('q')], model: 'm', maxTokens: 5 },
  ],
  ['a model', { model: 'm' }, { messages: [user('q')] }, { messages: [user('q')], model: 'm' }],
  [
    'another model: the models of the identity refuse it',
    { model: 'm' },
    { messages: [user('q')], model: 'x' },
    { messages: [user('q')], model: 'x' },
  ],
  ['system text', { system: 's' }, { messages: [user('q')] }, { messages: [system('s'), user('q')] }],
  [
    'system text in a conversation',
    { system: 's' },
    { messages: [user('q'), assistant, user('r')] },
    { messages: [system('s'), user('q'), assistant, user('r')] },
  ],
  ['system text, and one of the page', { system: 's' }, { messages: [system('x'), user('q')] }, SYSTEM],
  ['system text, and one later', { system: 's' }, { messages: [user('q'), assistant, system('x')] }, SYSTEM],
  ['tokens', { maxTokens: 10 }, { messages: [user('q')] }, { messages: [user('q')], maxTokens: 10 }],
  ['fewer tokens', { maxTokens: 10 }, { messages: [user('q')], maxTokens: 9 }, { messages: [user('q')], maxTokens: 9 }],
  ['as many', { maxTokens: 10 }, { messages: [user('q')], maxTokens: 10 }, { messages: [user('q')], maxTokens: 10 }],
  ['more tokens', { maxTokens: 10 }, { messages: [user('q')], maxTokens: 11 }, TOKENS],
  ['its question', { question: Q }, { messages: [user('q')] }, { messages: [user('q')] }],
  [
    'its question as a block of text',
    { question: Q },
    { messages: [blocks({ type: 'text', text: 'q' })] },
    { messages: [blocks({ type: 'text', text: 'q' })] },
  ],
  [
    'its question with its system text',
    { question: Q, system: 's' },
    { messages: [user('q')] },
    { messages: [system('s'), user('q')] },
  ],
  ['another question', { question: Q }, { messages: [user('q ')] }, OTHER],
  ['its question after another', { question: Q }, { messages: [user('x'), assistant, user('q')] }, OTHER],
  ['another after its question', { question: Q }, { messages: [user('q'), assistant, user('x')] }, OTHER],
  ['its question as the assistant', { question: Q }, { messages: [{ role: 'assistant', content: 'q' }] }, OTHER],
  ['its question and system text of the page', { question: Q }, { messages: [system('x'), user('q')] }, SYSTEM],
  [
    'its question and an image',
    { question: Q },
    { messages: [blocks({ type: 'text', text: 'q' }, { type: 'image' })] },
    OTHER,
  ],
  ['an image', { question: Q }, { messages: [blocks({ type: 'image', url: 'q' })] }, OTHER],
  ['no message', { question: Q }, { messages: [] }, OTHER],
];

for (const [name, terms, question, expected] of cases) {
  t.test(name, async (t) => {
    const apply = () =>
      applyTicketTerms({ ...question, temperature: 1 }, { nonce: 'n', expires: 0, questions: 1, ...terms });
    if (expected instanceof RegExp) t.throws(apply, { name: 'TicketRefusal', message: expected });
    else t.same(apply(), { ...expected, temperature: 1 }, 'and the rest stays');
  });
}
