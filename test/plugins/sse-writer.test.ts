import { EventEmitter } from 'node:events';
import type { ServerResponse } from 'node:http';
import { setImmediate as turn } from 'node:timers/promises';
import t from 'tap';
import { systemClock } from '../../plugins/clock.ts';
import type { OutgoingEvent } from '../../plugins/sse/api.ts';
import { escapeLineSeparators, serializeEvent } from '../../plugins/sse/bytes.ts';
import { longTextPieces } from '../../plugins/sse/long-text.ts';
import { SseWriter } from '../../plugins/sse/writer.ts';
import {
  type Decoder,
  everyBlankLineDecoder,
  pythonLinesDecoder,
  webkitDecoder,
  whatwgDecoder,
} from './sse-decoders.ts';

/** The writer of one response whose client reads faster than the service writes. */

/** A response that accepts everything at once, as a socket with much room does: `drain` follows without a turn. */
class EagerResponse extends EventEmitter {
  writes = 0;
  isEnded = false;
  destroyed = false;
  writableNeedDrain = false;
  readonly writableHighWaterMark = 16_384;
  readonly #needsDrain: boolean;

  constructor(needsDrain: boolean) {
    super();
    this.#needsDrain = needsDrain;
  }

  write(): boolean {
    this.writes += 1;
    if (!this.#needsDrain) return true;
    this.writableNeedDrain = true;
    process.nextTick(() => {
      this.writableNeedDrain = false;
      this.emit('drain');
    });
    return false;
  }

  flushHeaders(): void {}

  end(): void {
    this.isEnded = true;
  }
}

const ITEMS = 20;

/** Writes 20 items, and returns the response before the event loop has turned. */
function writeItems(eventOf: (item: number) => OutgoingEvent, needsDrain: boolean): EagerResponse {
  const response = new EagerResponse(needsDrain);
  let last = 0;
  const feed = {
    next: async () => ++last,
    close() {},
    encode: (item: number) => [eventOf(item)],
    isLast: (item: number) => item === ITEMS,
  };
  const options = { clock: systemClock, log: { error: t.fail } as never, intervals: { observe() {} } };
  new SseWriter(response as unknown as ServerResponse, feed, options).start([]);
  return response;
}

async function turnsUntilEnd(response: EagerResponse): Promise<number> {
  let turns = 0;
  for (; !response.isEnded; turns += 1) await turn();
  return turns;
}

const data = (length: number): OutgoingEvent => ({ data: 'x'.repeat(length) });
const longText = (length: number): OutgoingEvent => ({
  id: '1',
  before: '{"a":',
  text: 'x'.repeat(length),
  after: '}',
});

for (const needsDrain of [false, true]) {
  const how = needsDrain ? 'the socket drains at once' : 'the socket has room';
  t.test(`a backlog takes a turn of the event loop for each item: ${how}`, async (t) => {
    const response = writeItems(() => data(4_096), needsDrain);
    t.ok((await turnsUntilEnd(response)) >= ITEMS - 1);
    t.equal(response.writes, ITEMS);
  });
}

t.test('short items do not wait for a turn', async (t) => {
  const response = writeItems(() => data(100), false);
  await turn();
  t.equal(response.writes, ITEMS);
  t.equal(response.isEnded, true);
});

t.test('a long text takes a turn for each time that the socket is full', async (t) => {
  const response = writeItems((item) => (item === 1 ? longText(40_960) : data(1)), true);
  t.ok((await turnsUntilEnd(response)) >= 10);
  t.equal(response.writes, 12, 'ten pieces, and what is around them');
});

t.test('events of one line have the same bytes as the others, with the id at its place', async (t) => {
  const texts = ['{"a":1}', '{"a":"\u2028\u2029\u0085"}', 'two\nlines', ''];
  for (const data of texts) {
    for (const id of ['abc.1', undefined]) {
      for (const idFirst of [true, false]) {
        for (const rest of [{}, { event: 'name' }, { retry: 5 }, { comment: 'hb' }]) {
          const lines = [
            ...('event' in rest ? ['event: name'] : []),
            ...(data === '' ? [] : data.split('\n').map((line) => `data: ${line}`)),
            ...('retry' in rest ? ['retry: 5'] : []),
            ...('comment' in rest ? [':hb'] : []),
          ];
          const all = idFirst ? [`id: ${id}`, ...lines] : [...lines, `id: ${id}`];
          const escaped = (id === undefined ? lines : all)
            .join('\n')
            .replace('\u2028\u2029\u0085', '\\u2028\\u2029\\u0085');
          const expected = escaped === '' ? '' : `${escaped}\n\n`;
          const event = { data, ...(id && { id }), idFirst, ...rest };
          if (data === '' && lines.length === 0 && id) continue; // No route has an event without anything.
          t.equal(serializeEvent(event), expected, Object.entries({ ...event, data: texts.indexOf(data) }).join('; '));
        }
      }
    }
  }
});

t.test('the opening block ends the rest of the response before it, and names its own event', (t) => {
  for (const lastEventId of ['', 'abc.7']) {
    const block = Buffer.from(serializeEvent({ lastEventId, retryMs: 1_500 }));
    const unnamed = (decoder: Decoder, bytes: Buffer) =>
      decoder.connection(bytes, false).filter(({ name }) => name === '');
    // WebKit keeps what it has received of an event, and reads on behind it.
    for (const rest of ['', 'data: {"a"', 'data: {}\nid: x', 'data: {}\nid: x\n', 'event: e\ndata: 1\n', ': hb']) {
      const decoder = webkitDecoder();
      unnamed(decoder, Buffer.from(rest));
      t.same(unnamed(decoder, block), [], `the rest is no event: ${JSON.stringify(rest)}`);
      t.equal(decoder.lastEventId, lastEventId, `nor does its id stay: ${JSON.stringify(rest)}`);
      t.same(unnamed(decoder, Buffer.from('data: next\n\n')), [{ data: 'next', name: '' }]);
    }
    for (const create of [whatwgDecoder, everyBlankLineDecoder, pythonLinesDecoder, webkitDecoder]) {
      const decoder = create();
      t.match(decoder.connection(block, true), [{ data: '{}', name: 'ready' }], create.name);
      t.equal(decoder.lastEventId, lastEventId, create.name);
    }
    t.match(String(block), /^retry: 1500$/m);
  }
  t.end();
});

t.test('the pieces of a long text are one event, with whole characters', (t) => {
  const text = '🚀'.repeat(10) + 'a\u2028"\u0085\ud800'.repeat(5);
  for (const maxUnits of [0, 1, 2, 3, 7, 100]) {
    const event = { id: '7', before: '{"z":"\u2029","a":', text, after: ',"b":"\u2028"}' };
    const pieces = [...longTextPieces(event, maxUnits)];
    t.same(whatwgDecoder().connection(Buffer.from(pieces.join('')), true), [
      { data: `{"z":"\\u2029","a":${escapeLineSeparators(JSON.stringify(text))},"b":"\\u2028"}`, name: '' },
    ]);
    t.ok(pieces.slice(1, -1).every((piece) => !/\\ud83d|\\ude80/.test(piece)));
    t.ok(pieces.length - 2 >= Math.floor(text.length / (Math.max(1, maxUnits) + 1)), `${pieces.length} pieces`);
    t.match(pieces.at(-1), /\nid: 7\n\n$/, 'the id is the last line');
  }
  t.end();
});
