import type { PartBuffer } from './parts.ts';

export interface ToolCallDelta {
  index?: number | null;
  id?: string | null;
  function?: { name?: string | null; arguments?: unknown } | null;
}

/**
 * Converts tool call deltas in OpenAI's format to parts. Passes `id` and `name` on once, because later deltas
 * repeat them or have empty ones (DashScope, Bella). If `index` is missing (Mistral), a new `id` starts a new
 * call.
 */
export function createToolCalls(parts: PartBuffer): { add(delta: ToolCallDelta): void } {
  const calls = new Map<number, { id: string; name: string; isSent: boolean }>();
  let lastIndex = -1;

  const indexOf = ({ index, id }: ToolCallDelta): number => {
    if (typeof index === 'number') return index;
    return id && calls.get(lastIndex)?.id !== id ? lastIndex + 1 : Math.max(lastIndex, 0);
  };

  return {
    add(delta) {
      const index = indexOf(delta);
      lastIndex = Math.max(lastIndex, index);
      const call = calls.get(index) ?? { id: '', name: '', isSent: false };
      calls.set(index, call);
      call.id ||= delta.id ?? '';
      call.name ||= delta.function?.name ?? '';
      const args = argumentText(delta.function?.arguments);
      const isFirst = !call.isSent;
      // A delta with only an id waits for the name, so that both are in the first part.
      if (isFirst ? call.name === '' && args === '' : args === '') return;
      call.isSent = true;
      parts.toolCall({
        type: 'tool_call',
        index,
        ...(isFirst && call.id !== '' && { id: call.id }),
        ...(isFirst && call.name !== '' && { name: call.name }),
        arguments: args,
      });
    },
  };
}

/** Returns the arguments as JSON text. A few servers send an object. */
function argumentText(value: unknown): string {
  if (typeof value === 'string') return value;
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : '';
}
