import t from 'tap';
import { createEventParser, type TextPlace } from '../../providers/wire/event-parser.ts';
import { random, SEED } from './random.ts';

/** Tests the parser of events that repeat the one before with another text: it must return what JSON says. */

interface Chunk {
  readonly choices: readonly { readonly delta: unknown }[];
}

const PLACE: TextPlace<Chunk> = { fields: ['content', 'reasoning'], holder: ({ choices }) => choices[0]?.delta };

const TEXTS = [
  'Hello',
  ' world',
  '你好',
  '🚀',
  '\ud83d',
  '',
  ' ',
  '"',
  '\\',
  '\n',
  '\u0001',
  '\u2028',
  '\u007f',
].concat(['"content":"x', '","content":"', '\\"', '\\u0041', '}', '"}}]}', '\u{10fffe}probe\u{10fffe}', 'a'.repeat(9)]);

/** Counts calls of `JSON.parse` until the test ends. */
function countParses(t: { teardown(done: () => void): void }): () => number {
  const { parse } = JSON;
  let count = 0;
  JSON.parse = (...args) => {
    count++;
    return parse(...args);
  };
  t.teardown(() => {
    JSON.parse = parse;
  });
  return () => count;
}

function chunk(delta: object, more: object = {}): string {
  return JSON.stringify({ id: 'c-1', choices: [{ index: 0, delta, finish_reason: null }], ...more });
}

t.test(`random events have the values that JSON gives them (seed ${SEED})`, async (t) => {
  const next = random(SEED);
  const oneOf = <T>(values: readonly T[]): T => values[Math.floor(next() * values.length)] as T;
  const text = () => oneOf(TEXTS) + (next() < 0.3 ? oneOf(TEXTS) : '');
  /** The same JSON as servers in other languages write it. */
  const rewrite = [
    (json: string) => json,
    (json: string) => json.replaceAll('":"', '": "'),
    (json: string) => json.replaceAll('":"', '":  "'),
    (json: string) => json.replace(/[^\0-\x7f]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`),
    (json: string) => json.replace(/"content":("(?:[^"\\]|\\.)*")/, '"content":"first","content":$1'),
    (json: string) => json.replace(/"content":("(?:[^"\\]|\\.)*")/, '"content":$1,"content":"last"'),
    (json: string) => json.replace('"choices"', '"content":"outside","choices"'),
  ];
  for (let stream = 0; stream < 400; stream++) {
    const parse = createEventParser(PLACE);
    const write = oneOf(rewrite);
    const id = text();
    for (let event = 0; event < 12; event++) {
      const kind = next();
      const delta =
        kind < 0.7 ? { content: text() } : kind < 0.8 ? { reasoning: text() } : { content: text(), reasoning: text() };
      const json = write(chunk(delta, next() < 0.9 ? { id } : { id: text(), usage: { total: event } }));
      const value = parse({ data: json }, json);
      if (JSON.stringify(value) !== JSON.stringify(JSON.parse(json))) {
        t.same(value, JSON.parse(json), `stream ${stream}, event ${event}: ${json}`);
        return;
      }
    }
  }
  t.pass('4,800 events');
});

t.test('text between two parts that would overlap', async (t) => {
  const parse = createEventParser(PLACE);
  const long = '{"choices":[{"delta":{"content":"a"}}],"x":{"content":""}}';
  parse({ data: long }, long);
  for (const json of [
    '{"choices":[{"delta":{"content":""}}],"x":{"content":""}}',
    '{"choices":[{"delta":{"content":1}}]}',
  ]) {
    t.same(parse({ data: json }, json), JSON.parse(json));
  }
  const cut = long.slice(0, -20);
  t.throws(() => parse({ data: cut }, cut), { code: 'upstream_protocol', reason: 'bad_json' });
});

t.test('events of one answer that differ in their text are parsed once', async (t) => {
  const count = countParses(t);
  const parse = createEventParser(PLACE);
  const texts = Array.from({ length: 100 }, (_, i) => (i % 2 ? `token ${i}` : `字${i}`));
  for (const content of texts) {
    const json = chunk({ content });
    const { choices } = parse({ data: json }, json);
    if (JSON.stringify(choices[0]?.delta) !== JSON.stringify({ content })) t.fail(content);
  }
  t.equal(count(), 2, 'the first event, and once for the template');
});

t.test('a text with escapes is parsed, and those behind it are not', async (t) => {
  const count = countParses(t);
  const parse = createEventParser(PLACE);
  for (const content of ['a', '\n', '"', 'b', 'c']) {
    const json = chunk({ content });
    t.same(parse({ data: json }, json).choices[0]?.delta, { content });
  }
  t.equal(count(), 4);
});

t.test('no more templates are made if events differ in more than their text', async (t) => {
  const parse = createEventParser(PLACE);
  const count = countParses(t);
  for (let i = 0; i < 100; i++) {
    const json = chunk({ content: 'a' }, { obfuscation: String(i) });
    parse({ data: json }, json);
  }
  t.equal(count(), 103);
});

t.test('a field that changes now and then, such as a time, costs one template each time', async (t) => {
  const parse = createEventParser(PLACE);
  const count = countParses(t);
  for (let i = 0; i < 100; i++) {
    const json = chunk({ content: String(i) }, { created: Math.floor(i / 10) });
    parse({ data: json }, json);
  }
  t.equal(count(), 20);
});

t.test('no template is made of a long event', async (t) => {
  const parse = createEventParser(PLACE);
  const count = countParses(t);
  for (const size of [4_096, 4_097]) {
    const empty = chunk({ content: 'a' }, { size, pad: '' });
    const json = chunk({ content: 'a' }, { size, pad: 'p'.repeat(size - empty.length) });
    t.equal(json.length, size);
    const before = count();
    for (let i = 0; i < 3; i++) parse({ data: json }, json);
    t.equal(count() - before, size === 4_096 ? 2 : 3);
  }
});

t.test('an event without the object that holds the text', async (t) => {
  const parse = createEventParser(PLACE);
  for (const json of ['{"content":"a"}', '{"choices":[],"content":"a"}', '{"choices":null,"content":"a"}']) {
    t.same(parse({ data: json }, json), JSON.parse(json));
    t.same(parse({ data: json }, json), JSON.parse(json), 'again');
  }
});
