import { EventEmitter } from 'node:events';
import type { ServerResponse } from 'node:http';
import { setImmediate as turn } from 'node:timers/promises';
import t from 'tap';
import { systemClock } from '../../plugins/clock.ts';
import type { OutgoingEvent } from '../../plugins/sse/api.ts';
import { serializeEvent } from '../../plugins/sse/bytes.ts';
import { SseWriter } from '../../plugins/sse/writer.ts';

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
