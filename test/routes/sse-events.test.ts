import type { FastifyRequest } from 'fastify';
import t from 'tap';
import type { Stream } from '../../plugins/streams/api.ts';
import { reconnectionOf } from '../../routes/reconnection.ts';
import { lastEventIdOf, openingBlock, parseEventId } from '../../routes/sse-events.ts';
import { manualDate } from '../manual-date.ts';

/** Tests resume points and the conditions of a reconnect. */

const STREAM = 'A-_z'.repeat(5);

t.test('the id of an event is its stream and its position', async (t) => {
  t.same(parseEventId(`${STREAM}.0`), { stream: STREAM, position: 0 });
  t.same(parseEventId(`${STREAM}.999999999999999`), { stream: STREAM, position: 999_999_999_999_999 });
  t.same(parseEventId(`${STREAM}.end`), { stream: STREAM, position: 'end' });
  for (const id of [
    '',
    STREAM,
    `${STREAM}.`,
    `${STREAM}.-1`,
    `${STREAM}.1x`,
    ` ${STREAM}.1`,
    `${STREAM}.${'1'.repeat(16)}`,
  ])
    t.equal(parseEventId(id), undefined, id);
});

t.test('the header wins over the query, and an empty value counts as none', async (t) => {
  const idOf = (header: string | undefined, lastEventId?: string) =>
    lastEventIdOf({ headers: { 'last-event-id': header }, query: { lastEventId } } as unknown as FastifyRequest);
  t.equal(idOf('a', 'b'), 'a');
  t.equal(idOf('', 'b'), 'b');
  t.equal(idOf(undefined, 'b'), 'b');
  t.equal(idOf('', ''), undefined);
});

t.test('readers that are told to come back do so at different times', async (t) => {
  const delays = new Set<number>();
  for (let i = 0; i < 100; i++) delays.add(openingBlock().retryMs ?? 0);
  t.ok(delays.size > 10, `${delays.size} delays`);
  t.ok(Math.min(...delays) >= 500 && Math.max(...delays) < 1_500);
});

t.test('a client whose token is about to expire keeps its connection', async (t) => {
  manualDate(t);
  const canReconnect = (validMs: number | undefined, { reconnects = true, resumable = true } = {}) => {
    const tokenExpires = validMs === undefined ? undefined : Date.now() + validMs;
    const request = { identity: { tokenExpires }, server: { streams: { shared: false } } } as unknown as FastifyRequest;
    return reconnectionOf(request, { resumable } as Stream, reconnects).canReconnect?.();
  };
  t.same([canReconnect(undefined), canReconnect(30_001), canReconnect(30_000)], [true, true, false]);
  t.same(
    [canReconnect(undefined, { reconnects: false }), canReconnect(undefined, { resumable: false })],
    [false, false],
  );
});
