import type { PartBuffer } from './parts.ts';

export interface ToolCallDelta {
  index?: number | null;
  id?: string | null;
  function?: { name?: string | null; arguments?: unknown } | null;
}

/**
 * OpenAI-like tool call deltas to parts. `id` and `name` go on once, since continuation deltas carry
 * empty ones (DashScope, Bella) or repeat them; a missing `index` (Mistral) is counted by `id`.
 */
export function createToolCalls(parts: PartBuffer): { add(delta: ToolCallDelta): void } {
  const seen = new Map<number, { id: string; name: string; isSent: boolean }>();
  let last = -1;

  const indexOf = ({ index, id }: ToolCallDelta): number => {
    if (typeof index === 'number') return index;
    return id && seen.get(last)?.id !== id ? last + 1 : Math.max(last, 0);
  };

  return {
    add(delta) {
      const index = indexOf(delta);
      last = Math.max(last, index);
      const known = seen.get(index) ?? { id: '', name: '', isSent: false };
      seen.set(index, known);
      known.id ||= delta.id ?? '';
      known.name ||= delta.function?.name ?? '';
      const args = argumentText(delta.function?.arguments);
      const first = !known.isSent;
      // An id alone waits for its name, so that the head goes on in one piece.
      if (first ? known.name === '' && args === '' : args === '') return;
      known.isSent = true;
      parts.toolCall({
        type: 'tool_call',
        index,
        ...(first && known.id !== '' && { id: known.id }),
        ...(first && known.name !== '' && { name: known.name }),
        arguments: args,
      });
    },
  };
}

/** A few servers send the arguments as an object instead of its text. */
function argumentText(value: unknown): string {
  if (typeof value === 'string') return value;
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : '';
}
