import type { Cut } from '../tcp-proxy.ts';

/** Cases of connections that are cut: at each place of a response that a decoder treats in its own way, and at random bytes. */

export interface CutCase {
  readonly name: string;
  /** Cuts of the first connections, in order. */
  readonly cuts: readonly Cut[];
  /** True if the page comes from another origin than the service. */
  readonly isCrossOrigin: boolean;
  /** True if a browser may give up, so that only a page that opens again gets the answer. */
  readonly isBeforeBody: boolean;
}

type Place = (response: string) => number;

/** Returns a place `offset` characters behind the end of `mark`. */
const behind =
  (mark: string, offset = 0): Place =>
  (response) => {
    const index = response.indexOf(mark);
    return index < 0 || response.length < index + mark.length + offset ? -1 : index + mark.length + offset;
  };

const HEAD_PLACES: Record<string, Place> = {
  'before the first byte': (response) => (response === '' ? -1 : 0),
  'in the status line': behind('HTTP/1.1 2'),
  'in the head': behind('\r\ncontent-type: tex'),
  'behind the head': behind('\r\n\r\n'),
};

/** Places of the response to a question. */
const FIRST_PLACES: Record<string, Place> = {
  'in the first line of the block': behind('event: rea'),
  'in the reconnect delay': behind('retry: ', 2),
  'in the data of the block': behind('data: {'),
  'before the blank line of the block': behind('data: {}\n'),
  'in start': behind('"type":"start"', 12),
  'behind the data of start': behind('"resumable":true}\n'),
  'in the id of start': behind('"resumable":true}\nid: ', 8),
  'before the blank line of start': (response) => matchEnd(response, /"resumable":true}\nid: .*\n/),
  'behind start': (response) => matchEnd(response, /"resumable":true}\nid: .*\n\n/),
};

/** Places of both the response to a question and the one to a resume. */
const PLACES: Record<string, Place> = {
  'in a delta': behind('"type":"delta","cont'),
  'in a character': behind('"content":"', 1),
  'behind the data of a delta': (response) => matchEnd(response, /"type":"delta".*\n/),
  'in the id of a delta': (response) => matchEnd(response, /"type":"delta".*\nid: \S{9}/),
  'before the blank line of a delta': (response) => matchEnd(response, /"type":"delta".*\nid: .*\n/),
  'behind a delta': (response) => matchEnd(response, /"type":"delta".*\nid: .*\n\n/),
  'in a large delta': behind('LLLL', 9_000),
  'before the blank line of a large delta': (response) => matchEnd(response, /"type":"delta".*LLLL.*\nid: .*\n/),
  'in end': behind('"type":"end","answ'),
  'late in end': behind('"finishReas'),
  'in the id of end': (response) => matchEnd(response, /"finishReason".*\nid: \S{9}/),
  'before the blank line of end': (response) => matchEnd(response, /"finishReason".*\nid: .*\n/),
};

/** Places of the response to a resume. */
const RESUME_PLACES: Record<string, Place> = {
  'in the first id of the block': behind('\r\nid: ', 8),
  'behind the first id of the block': (response) => matchEnd(response, /\r\nid: \S+\n/),
  'in the second id of the block': (response) => matchEnd(response, /\nid: \S+\nid: \S{9}/),
  'in the name of the block': behind('event: rea'),
  'in the reconnect delay': behind('retry: ', 2),
  'before the blank line of the block': behind('data: {}\n'),
  'behind the block': behind('data: {}\n\n'),
};

function matchEnd(response: string, pattern: RegExp): number {
  const match = pattern.exec(response);
  return match ? match.index + match[0].length : -1;
}

/** Returns all cases; `seed` chooses the combinations and the random bytes. */
export function cutCases(seed: number): CutCase[] {
  let state = seed;
  const random = (below: number) => {
    state = (state * 48_271) % 2_147_483_647;
    return state % below;
  };
  const pick = <T>(from: readonly T[]): T => from[random(from.length)] as T;
  const cases: CutCase[] = [];
  const add = (...places: (readonly [name: string, at: Place])[]) => {
    // Each place is cut in both ways, for pages of both origins.
    const isCrossOrigin = cases.length % 2 === 1;
    const cuts = places.map(([, at], i) => ({ at, by: (cases.length >> (i + 1)) % 2 === 1 ? 'RST' : 'FIN' }) as const);
    const names = places.map(([name], i) => `${name} by ${cuts[i]?.by}`);
    cases.push({
      name: `a cut ${names.join(', then ')}, page of ${isCrossOrigin ? 'another' : 'the same'} origin`,
      cuts,
      isCrossOrigin,
      isBeforeBody: places.some(([name]) => name in HEAD_PLACES),
    });
  };
  const heads = Object.entries(HEAD_PLACES);
  const firsts = Object.entries({ ...FIRST_PLACES, ...PLACES });
  const seconds = Object.entries({ ...PLACES, ...RESUME_PLACES });
  for (const place of heads) {
    for (let i = 0; i < 2; i++) add(place);
    add(place, pick(firsts));
    add(pick(firsts), place);
  }
  for (const place of firsts) {
    add(place);
    add(place, pick(seconds));
  }
  const inDelta = ['in a delta', PLACES['in a delta'] as Place] as const;
  for (const place of seconds) add(inDelta, place);
  for (let i = 0; i < 8; i++) add(...[random(1_500), random(13_000)].map(atByte));
  return cases;
}

/** Most bytes of the size of the first chunk, and one of its data. Before these no body has begun, and Firefox gives up. */
const FIRST_BYTES = 6;

/** Returns the place behind `count` more bytes than the first ones of the body. */
function atByte(count: number): readonly [string, Place] {
  return [`in the body at ${count}`, behind('\r\n\r\n', FIRST_BYTES + count)];
}
