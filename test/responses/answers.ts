import fc from 'fast-check';
import type { EventMessage } from 'fastify';
import type { AppendSlice, ContentPart, Terminal } from '../../plugins/streams/api.ts';
import { appendSizes, splitAppends } from '../../plugins/streams/units.ts';
import type { ResponseContext } from '../../routes/responses/context.ts';
import { ResponseEncoder, serialize } from '../../routes/responses/events.ts';
import type { Event } from './grammar.ts';

/** Random answers, and their events. */

export const STREAM = 'A-_z'.repeat(5);
export const HEAD = { stream: STREAM, model: 'm', createdAt: 1, echo: { metadata: {} } };
export const CONTEXT: ResponseContext = { createdAt: 1, background: false, hasState: false };

/** Returns the answer in slices of the given numbers of appends. */
export function slicesOf(parts: readonly ContentPart[], terminal: Terminal, counts: readonly number[]): AppendSlice[] {
  const appends = parts.flatMap((part) => splitAppends({ part, sizes: appendSizes(part) }));
  const placed = appends.map((part, index) => ({ part, index, position: 0 }));
  const slices: AppendSlice[] = [];
  for (let i = 0; placed.length > 0; i += 1) slices.push({ parts: placed.splice(0, counts[i % counts.length] ?? 1) });
  return [...slices, { parts: [], terminal }];
}

/** Reads the events behind an event; all of them by default. */
export function read(slices: readonly AppendSlice[], { after = -1, context = CONTEXT } = {}): Event[] {
  const encoder = new ResponseEncoder({ head: HEAD, context, after });
  const parse = (events: EventMessage[]) =>
    events.map(({ event, data }) => {
      const parsed = JSON.parse(String(data));
      if (parsed.type !== event) throw new Error(`the name ${event} of ${data}`);
      return parsed;
    });
  return [encoder.open(), ...slices.map((slice) => encoder.encode(slice))].flatMap((events) =>
    parse(events.map(serialize)),
  );
}

const content = fc.string({ unit: fc.constantFrom('a', '你', '🚀', '"', '\n', '\u2028'), maxLength: 6 });
const textPart = fc.oneof(
  fc.record({ type: fc.constantFrom('text' as const, 'reasoning' as const), text: content }),
  fc.record({ type: fc.constant('text' as const), text: content, isRefusal: fc.constant(true as const) }),
);
const fragment = fc.oneof(content, fc.constantFrom('', '{"a":1}', '{"a":', '1}', '{}'));
const callPart = fc.record({ type: fc.constant('tool_call' as const), index: fc.nat(2), arguments: fragment });

/** Fragments of up to three calls, in any order; the first one of a call has its head. */
export const answer = fc.array(fc.oneof(textPart, callPart), { maxLength: 14 }).map((parts) => {
  const seen = new Set<number>();
  return parts.map((part): ContentPart => {
    if (part.type !== 'tool_call' || seen.has(part.index)) return part;
    seen.add(part.index);
    return { ...part, id: `c${part.index}`, name: 'look' };
  });
});

export const END = { type: 'end', finishReason: 'stop', usage: { inputTokens: 1, outputTokens: 2 } } as const;
export const FAILED: Terminal = {
  ...{ type: 'error', code: 'upstream_failed', message: 'no', retryable: true, status: 502 },
};
export const terminal: fc.Arbitrary<Terminal> = fc.oneof(
  fc.record({
    type: fc.constant('end' as const),
    finishReason: fc.constantFrom('stop', 'length', 'tool_calls', 'content_filter', 'other', 'stopped'),
    usage: fc.constantFrom(undefined, { inputTokens: 1, outputTokens: 2, reasoningTokens: 1 }),
    state: fc.constantFrom(undefined, { provider: 'p', details: [{ type: 'reasoning.encrypted', data: 'x' }] }),
  }),
  fc.constantFrom(FAILED, { ...FAILED, reason: 'context_length_exceeded' }),
);
export const context: fc.Arbitrary<ResponseContext> = fc.record({
  createdAt: fc.constant(1),
  background: fc.boolean(),
  hasState: fc.boolean(),
});
export const counts = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 });
