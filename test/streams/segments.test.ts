import fc from 'fast-check';
import t from 'tap';
import { Segments } from '../../plugins/streams/memory/segments.ts';
import { partSize } from '../../plugins/streams/units.ts';
import type { ContentPart } from '../../providers/types.ts';

/** The content of a log, compared with a plain list of its units. */

const RUNS = Number(process.env.RUNS || 200);

const content = fc.oneof(
  fc.string({ maxLength: 6, unit: 'grapheme' }),
  fc.constantFrom('', 'x', '你好', '🚀', '🚀🚀🚀', 'a🚀b'),
);
const part: fc.Arbitrary<ContentPart> = fc.oneof(
  content.map((text) => ({ type: 'text' as const, text })),
  content.map((text) => ({ type: 'text' as const, text })),
  content.map((text) => ({ type: 'reasoning' as const, text })),
  fc.record({ type: fc.constant('tool_call' as const), index: fc.nat(1), arguments: content }),
  fc.record({
    type: fc.constant('tool_call' as const),
    index: fc.nat(1),
    id: fc.constant('i'),
    name: fc.constant('f'),
    arguments: content,
  }),
  fc.record({
    type: fc.constant('tool_call' as const),
    index: fc.nat(1),
    name: fc.constant('g'),
    arguments: fc.constant(''),
  }),
);

/** Returns one text for each unit of a part: its kind and its character, or the head of a tool call. */
function unitsOf(part: ContentPart): string[] {
  const kind = part.type === 'tool_call' ? `tool ${part.index}` : part.type;
  const text = part.type === 'tool_call' ? part.arguments : part.text;
  const units = Array.from({ length: text.length }, (_, i) => `${kind}:${text[i]}`);
  if (part.type !== 'tool_call' || (part.id === undefined && part.name === undefined)) return units;
  return [`${kind} is ${part.id} ${part.name}`, ...units];
}

const isLowSurrogate = (unit: string | undefined) => /:[\udc00-\udfff]$/.test(unit ?? '');

function same(actual: unknown, expected: unknown, what: string): void {
  const [got, wanted] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (got !== wanted) throw new Error(`${what}: ${got}, expected ${wanted}`);
}

/** Compares all slices with the units of all parts, from every position at which a slice may begin. */
function compare(segments: Segments, parts: readonly ContentPart[], limit: number): void {
  const units = parts.flatMap(unitsOf);
  same(segments.length, units.length, 'length');
  for (let from = 0; from <= units.length; from++) {
    if (isLowSurrogate(units[from])) continue;
    const slice = segments.slice(from, limit);
    const got = slice.flatMap(unitsOf);
    same(got, units.slice(from, from + got.length), `units from ${from}`);
    const end = from + got.length;
    const wanted = Math.min(units.length, from + limit);
    same(end, isLowSurrogate(units[wanted]) ? wanted + 1 : wanted, `end of the slice from ${from} with limit ${limit}`);
    same(
      slice.every((one) => partSize(one) > 0),
      true,
      'no part is empty',
    );
    for (const [i, one] of slice.slice(1).entries()) {
      const before = slice[i] as ContentPart;
      const canMerge = before.type === one.type && one.type !== 'tool_call';
      same(canMerge, false, `adjacent parts from ${from} are merged`);
    }
  }
  const text = parts.map((one) => (one.type === 'text' ? one.text : '')).join('');
  same(segments.slice(units.length, limit), [], 'nothing is behind the end');
  same(segments.text(), text, 'the whole text');
}

t.test('every slice has the units that were appended, merged, and whole characters', (t) => {
  fc.assert(
    fc.property(fc.array(part, { maxLength: 40 }), fc.integer({ min: 1, max: 30 }), fc.nat(40), (parts, limit, n) => {
      const segments = new Segments();
      for (const [i, one] of parts.entries()) {
        segments.append(one);
        // A look at the text in between joins what is open.
        if (i === n) compare(segments, parts.slice(0, i + 1), limit);
      }
      compare(segments, parts, limit);
      segments.seal();
      compare(segments, parts, limit);
    }),
    { numRuns: RUNS },
  );
  t.pass(`${RUNS} random logs`);
  t.end();
});

const RUN_LENGTH = 200;
for (const [name, make] of Object.entries<(i: number) => ContentPart>({
  text: (i) => ({ type: 'text', text: `${i},` }),
  reasoning: (i) => ({ type: 'reasoning', text: `${i},` }),
  'arguments of one tool call': (i) => ({
    type: 'tool_call',
    index: 0,
    ...(i === 0 && { id: 'i', name: 'f' }),
    arguments: `${i},`,
  }),
})) {
  t.test(`a long run of ${name} is one part, while it grows and when it is sealed`, (t) => {
    const segments = new Segments();
    const parts: ContentPart[] = [];
    for (let i = 0; i < RUN_LENGTH; i++) {
      const one = make(i);
      parts.push(one);
      segments.append(one);
      if (segments.slice(0, 10_000).length !== 1) t.fail(`several parts after ${i + 1} pieces`);
      // A reader that keeps up gets the last piece alone.
      const [last, ...others] = segments.slice(segments.length - partSize(one), 10_000);
      t.same([last, others], [one, []], `the last of ${i + 1} pieces`);
    }
    const whole = segments.slice(0, 10_000);
    t.equal(partSize(whole[0] as ContentPart), segments.length, 'all units');
    segments.seal();
    t.same(segments.slice(0, 10_000), whole, 'the sealed run is the same part');
    compare(segments, parts, 100);
    t.end();
  });
}
