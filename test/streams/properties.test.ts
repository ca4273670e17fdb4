import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { bellaAt, serve } from '../helper.ts';
import { type Event, open } from '../sse-client.ts';
import { type Call, chunk, DONE, STOP, sse, startUpstream, text } from '../upstream.ts';

/**
 * Plays random answers to several readers that disconnect, resume at random positions and read at random
 * speeds. Each of them gets the provider's whole answer, from one upstream call.
 */

const RUNS = Number(process.env.RUNS ?? 60);

type Piece = { kind: 'text' | 'reasoning' | 'tool_call'; content: string };

const piece: fc.Arbitrary<Piece> = fc
  .record({
    kind: fc.constantFrom('text', 'text', 'text', 'reasoning', 'tool_call'),
    content: fc.oneof(
      fc.string({ minLength: 1, maxLength: 40, unit: 'grapheme' }),
      fc.constantFrom('你好', '🚀👩‍🚀', '\r\n\r', '\u2028', 'data: x\n\n', '"\\'),
      fc.string({ minLength: 500, maxLength: 3_000 }),
    ),
    // As arguments, `{}` stands for those that follow.
  })
  .filter(({ content }) => content.trim() !== '{}');

const scenario = fc.record({
  pieces: fc.array(piece, { minLength: 1, maxLength: 60 }),
  /** Number of pieces that the upstream writes in one turn of the event loop. */
  burst: fc.integer({ min: 1, max: 10 }),
  readers: fc.array(
    fc.record({
      /** The connection is cut after a number of events, and resumes a number of events before the last. */
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
      else {
        const name = pieces.findIndex((one) => one.kind === 'tool_call') === i ? { name: 'f' } : {};
        response.write(chunk({ tool_calls: [{ index: 0, function: { ...name, arguments: content } }] }));
      }
      if (i % burst === burst - 1) await turn();
    }
    response.end(STOP + DONE);
  };
}

/** Merges adjacent pieces of one kind, so that answers compare equal however they were split into events. */
function merged(pieces: readonly Piece[]): Piece[] {
  const result: Piece[] = [];
  for (const { kind, content } of pieces) {
    const last = result.at(-1);
    if (last && last.kind === kind) last.content += content;
    else result.push({ kind, content });
  }
  return result;
}

const KINDS: Record<string, Piece['kind']> = { delta: 'text', reasoning: 'reasoning', tool_call: 'tool_call' };

function piecesOf(events: readonly Event[]): Piece[] {
  return events.flatMap(({ json }) => {
    const kind = KINDS[json.type];
    return kind ? [{ kind, content: json.content ?? json.arguments }] : [];
  });
}

interface ReaderPlan {
  readonly cuts: readonly { after: number; back: number }[];
  readonly slow: boolean;
}

/** Reads a stream to its end, with the disconnects of a plan. Returns the events that a page would keep. */
async function readWithCuts(
  url: string,
  { cuts, slow }: ReaderPlan,
  onStart?: (path: string) => void,
): Promise<Event[]> {
  let seen: Event[] = [];
  for (const cut of [...cuts, undefined]) {
    const lastId = seen.at(-1)?.id;
    const reading = await open(url, lastId ? { headers: { 'last-event-id': lastId } } : {});
    if (seen.length === 0) onStart?.((await reading.until('start')).json.url);
    let hasEnded = false;
    void reading.ended.then(() => {
      hasEnded = true;
    });
    while (!hasEnded && (cut === undefined || reading.events.length < cut.after)) {
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
    // A page can resume from any delivered event, for example from an older one that it has stored.
    seen = seen.slice(0, Math.max(1, seen.length - (cut?.back ?? 0)));
  }
  return seen;
}

async function checkRandomScenarios(t: Test, env: Record<string, string>): Promise<void> {
  let script: (call: Call) => Promise<void> = async () => {};
  const upstream = await startUpstream(t, (call) => script(call));
  const { url } = await serve(t, { env: bellaAt(upstream.url, env) });

  await fc.assert(
    fc.asyncProperty(scenario, async ({ pieces, burst, readers }) => {
      const callsBefore = upstream.calls.length;
      script = play(pieces, burst);
      const [first, ...others] = readers;
      const pages: Promise<Event[]>[] = [];
      const page = await readWithCuts(`${url}/ask/stream?question=q`, first as ReaderPlan, (path) => {
        for (const plan of others) pages.push(readWithCuts(url + path, plan));
      });
      const expected = merged(pieces);
      const answer = pieces.map(({ kind, content }) => (kind === 'text' ? content : '')).join('');
      for (const events of [page, ...(await Promise.all(pages))]) {
        same(merged(piecesOf(events)), expected, 'text, reasoning and tool calls');
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
          'positions strictly increase',
        );
      }
      same(upstream.calls.length - callsBefore, 1, 'upstream calls');
    }),
    { numRuns: RUNS, ...(process.env.SEED && { seed: Number(process.env.SEED) }) },
  );
  t.pass(`${RUNS} random scenarios deliver the whole answer`);
}

function same(actual: unknown, expected: unknown, what: string): void {
  const [got, wanted] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (got !== wanted) throw new Error(`${what}: got ${got.slice(0, 400)}, expected ${wanted.slice(0, 400)}`);
}

t.test('resuming readers get the whole answer without a flush interval', (t) =>
  checkRandomScenarios(t, { STREAM_FLUSH_MS: '0' }),
);
t.test('resuming readers get the whole answer with a flush interval and a low high-water mark', (t) =>
  checkRandomScenarios(t, { STREAM_FLUSH_MS: '3', STREAM_HIGH_WATER_MARK: '64' }),
);
