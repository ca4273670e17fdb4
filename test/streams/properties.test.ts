import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { bellaAt, serve } from '../helper.ts';
import { type Event, open } from '../sse-client.ts';
import { type Call, chunk, DONE, STOP, sse, startUpstream, text } from '../upstream.ts';

/**
 * Random answers, random cuts, random places to resume from, random paces, several readers: every
 * one of them ends with the provider's answer, and the provider was asked once.
 */

const RUNS = Number(process.env.RUNS ?? 60);

type Piece = { kind: 'text' | 'reasoning' | 'tool_call'; content: string };

const piece: fc.Arbitrary<Piece> = fc.record({
  kind: fc.constantFrom('text', 'text', 'text', 'reasoning', 'tool_call'),
  content: fc.oneof(
    fc.string({ minLength: 1, maxLength: 40, unit: 'grapheme' }),
    fc.constantFrom('你好', '🚀👩‍🚀', '\r\n\r', '\u2028', 'data: x\n\n', '"\\'),
    fc.string({ minLength: 500, maxLength: 3_000 }),
  ),
});

const scenario = fc.record({
  pieces: fc.array(piece, { minLength: 1, maxLength: 60 }),
  /** How many pieces the upstream writes before it lets others run. */
  burst: fc.integer({ min: 1, max: 10 }),
  readers: fc.array(
    fc.record({
      /** After so many events the connection is cut; then it resumes so many events before the last. */
      cuts: fc.array(fc.record({ after: fc.integer({ min: 0, max: 12 }), back: fc.integer({ min: 0, max: 4 }) }), {
        maxLength: 4,
      }),
      slow: fc.boolean(),
    }),
    { minLength: 1, maxLength: 3 },
  ),
});

function play(pieces: readonly Piece[], burst: number) {
  return async ({ response }: Call) => {
    sse(response);
    for (const [i, { kind, content }] of pieces.entries()) {
      if (kind === 'text') response.write(text(content));
      else if (kind === 'reasoning') response.write(chunk({ reasoning_content: content }));
      else response.write(chunk({ tool_calls: [{ index: 0, function: { arguments: content } }] }));
      if (i % burst === burst - 1) await turn();
    }
    response.end(STOP + DONE);
  };
}

/** The answer as one run of text after another, however it was cut into events. */
function normalised(pieces: readonly Piece[]): Piece[] {
  const runs: Piece[] = [];
  for (const { kind, content } of pieces) {
    const last = runs.at(-1);
    if (last && last.kind === kind) last.content += content;
    else runs.push({ kind, content });
  }
  return runs;
}

const TYPES: Record<string, Piece['kind']> = { delta: 'text', reasoning: 'reasoning', tool_call: 'tool_call' };

function piecesOf(events: readonly Event[]): Piece[] {
  return events.flatMap(({ json }) => {
    const kind = TYPES[json.type];
    return kind ? [{ kind, content: json.content ?? json.arguments }] : [];
  });
}

interface Plan {
  readonly cuts: readonly { after: number; back: number }[];
  readonly slow: boolean;
}

/** Reads a stream to its end as a browser would, cut by plan; returns what stands on its page. */
async function readCut(url: string, { cuts, slow }: Plan, onStart?: (path: string) => void): Promise<Event[]> {
  let seen: Event[] = [];
  for (const cut of [...cuts, undefined]) {
    const lastId = seen.at(-1)?.id;
    const reading = await open(url, lastId ? { headers: { 'last-event-id': lastId } } : {});
    if (seen.length === 0) onStart?.((await reading.until('start')).json.url);
    let over = false;
    void reading.ended.then(() => {
      over = true;
    });
    while (!over && (cut === undefined || reading.events.length < cut.after)) {
      if (slow) {
        reading.response.pause();
        for (let i = 0; i < 3; i++) await turn();
        reading.response.resume();
      }
      await turn();
    }
    reading.cut();
    seen = [...seen, ...reading.events];
    if (seen.at(-1)?.id.endsWith('.end')) return seen;
    // Any delivered event is a place to resume from: a page may have stored an older one.
    seen = seen.slice(0, Math.max(1, seen.length - (cut?.back ?? 0)));
  }
  return seen;
}

async function holds(t: Test, env: Record<string, string>): Promise<void> {
  let script: (call: Call) => Promise<void> = async () => {};
  const upstream = await startUpstream(t, (call) => script(call));
  const { url } = await serve(t, { env: bellaAt(upstream.url, env) });

  await fc.assert(
    fc.asyncProperty(scenario, async ({ pieces, burst, readers }) => {
      const callsBefore = upstream.calls.length;
      script = play(pieces, burst);
      const [first, ...others] = readers;
      const pages: Promise<Event[]>[] = [];
      const page = await readCut(`${url}/ask/stream?question=q`, first as Plan, (path) => {
        for (const plan of others) pages.push(readCut(url + path, plan));
      });
      const expected = normalised(pieces);
      const answer = pieces.map(({ kind, content }) => (kind === 'text' ? content : '')).join('');
      for (const events of [page, ...(await Promise.all(pages))]) {
        same(normalised(piecesOf(events)), expected, 'text, reasoning and tool calls');
        const terminals = events.filter(({ json }) => ['end', 'error'].includes(json.type));
        same(
          terminals.map(({ json }) => [json.type, json.answer]),
          [['end', answer]],
          'one terminal',
        );
        const positions = events.slice(0, -1).map(({ id }) => Number(id.split('.')[1]));
        same(
          positions,
          [...new Set(positions)].sort((a, b) => a - b),
          'ids strictly rise',
        );
      }
      same(upstream.calls.length - callsBefore, 1, 'asked once');
    }),
    { numRuns: RUNS, ...(process.env.SEED && { seed: Number(process.env.SEED) }) },
  );
  t.pass(`${RUNS} scenarios`);
}

function same(actual: unknown, expected: unknown, what: string): void {
  const [got, wanted] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (got !== wanted) throw new Error(`${what}: got ${got.slice(0, 400)}, wanted ${wanted.slice(0, 400)}`);
}

t.test('merged as it comes', (t) => holds(t, { STREAM_FLUSH_MS: '0' }));
t.test('merged by the frame, with little room', (t) =>
  holds(t, { STREAM_FLUSH_MS: '3', STREAM_HIGH_WATER_MARK: '64' }),
);
