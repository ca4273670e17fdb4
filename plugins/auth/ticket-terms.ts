import type { ChatMessage } from '../../providers/types.ts';
import type { TicketTerms } from './identity.ts';
import { hashQuestion } from './tickets.ts';

/** A question as far as tickets set or restrict it. */
interface Question {
  readonly model?: string | undefined;
  readonly messages: readonly ChatMessage[];
  readonly maxTokens?: number | undefined;
}

/** A question that a ticket does not allow. The message says what to change. */
export class TicketRefusal extends Error {
  override readonly name = 'TicketRefusal';
}

/** Returns a question with what its ticket sets. Pure. @throws TicketRefusal for a question that it does not allow */
export function applyTicketTerms<T extends Question>(question: T, terms: TicketTerms): T {
  const { system, maxTokens: most = Number.POSITIVE_INFINITY } = terms;
  const { messages, model = terms.model, maxTokens = terms.maxTokens } = question;
  const isFixed = system !== undefined || terms.question !== undefined;
  if (isFixed && messages.some(({ role }) => role === 'system')) {
    throw new TicketRefusal('This ticket allows no system text of the page; leave it out.');
  }
  if (terms.question !== undefined && !isQuestion(messages, terms.question)) {
    throw new TicketRefusal('This ticket is for another question; request a new one.');
  }
  if (maxTokens !== undefined && maxTokens > most) {
    throw new TicketRefusal(`This ticket allows at most ${most} tokens; lower maxTokens.`);
  }
  return {
    ...question,
    messages: system === undefined ? messages : [{ role: 'system', content: system }, ...messages],
    ...(model !== undefined && { model }),
    ...(maxTokens !== undefined && { maxTokens }),
  };
}

/** Returns true if a conversation has just the question with this hash. */
function isQuestion(messages: readonly ChatMessage[], hash: string): boolean {
  const [only, ...others] = messages;
  if (only?.role !== 'user' || others.length > 0) return false;
  const { content } = only;
  if (typeof content === 'string') return hashQuestion(content) === hash;
  const [block, ...more] = content;
  return block?.type === 'text' && more.length === 0 && hashQuestion(block.text) === hash;
}
