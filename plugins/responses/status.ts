import type { Terminal } from '../streams/api.ts';
import type { AnswerStatus } from './api.ts';

/** Returns how an answer ended. One that was cut, or whose finish reason is unknown, is incomplete. */
export function statusOf(terminal: Terminal): AnswerStatus {
  if (terminal.type === 'error') return 'failed';
  const { finishReason } = terminal;
  if (finishReason === 'stopped') return 'cancelled';
  return finishReason === 'stop' || finishReason === 'tool_calls' ? 'completed' : 'incomplete';
}
