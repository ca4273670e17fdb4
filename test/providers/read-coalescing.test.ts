import { once } from 'node:events';
import net, { type AddressInfo, type Socket } from 'node:net';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import tls from 'node:tls';
import t, { type Test } from 'tap';
import { coalesceReads } from '../../providers/wire/read-coalescing.ts';
import { until } from '../helper.ts';

/** Tests read intervals on real sockets. The tests set the time and end the intervals. */

const INTERVAL_MS = 10;

async function connection(t: Test, connect: (port: number) => Socket, server: net.Server) {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const accepted = once(server, server instanceof tls.Server ? 'secureConnection' : 'connection');
  const socket = connect((server.address() as AddressInfo).port);
  const [peer] = (await accepted) as [Socket];
  peer.setNoDelay(true).on('error', () => {});
  t.teardown(() => {
    socket.destroy();
    peer.destroy();
    server.close();
  });

  let now = 0;
  const intervals: (() => void)[] = [];
  coalesceReads(socket, {
    now: () => now,
    intervalMs: () => INTERVAL_MS,
    afterInterval: (then) => void intervals.push(then),
  });
  const reads: string[] = [];
  let isReading = true;
  const readAvailable = () => {
    if (!isReading) return;
    for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) reads.push(String(chunk));
  };
  socket.on('readable', readAvailable);
  return {
    socket,
    peer,
    reads,
    /** Intervals that have started and not ended. */
    intervals,
    advance: (ms: number) => {
      now += ms;
    },
    stopReading: () => {
      isReading = false;
    },
    resumeReading: () => {
      isReading = true;
      readAvailable();
    },
    endInterval: () => {
      for (const then of intervals.splice(0)) then();
    },
    /** Sends text to the socket and waits until it is read. */
    async send(text: string): Promise<void> {
      peer.write(text);
      await until(() => reads.at(-1)?.endsWith(text) === true, `read ${text}`);
    },
  };
}

const plain = (t: Test) => connection(t, (port) => net.connect({ port, host: '127.0.0.1' }), net.createServer());

/** Sends text that must not be read: lets the event loop turn often enough for a socket that reads to get it. */
async function sendUnread(peer: Socket, text: string): Promise<void> {
  await new Promise<void>((resolve) => peer.write(text, () => resolve()));
  for (let i = 0; i < 50; i++) await turn();
}

const PSK = Buffer.from('0123456789abcdef');
const CIPHERS = { ciphers: 'PSK', maxVersion: 'TLSv1.2' } as const;
const secure = (t: Test) =>
  connection(
    t,
    (port) =>
      tls.connect({
        port,
        host: '127.0.0.1',
        ...CIPHERS,
        pskCallback: () => ({ psk: PSK, identity: 'test' }),
        checkServerIdentity: () => undefined,
      }),
    tls.createServer({ ...CIPHERS, pskCallback: () => PSK, pskIdentityHint: 'test' }),
  );

for (const [name, connect] of Object.entries({ plain, secure })) {
  t.test(`${name}: bytes that arrive within a read interval are read together`, async (t) => {
    const { peer, reads, intervals, send, endInterval } = await connect(t);
    await send('first ');
    await send('second '); // Arrives within the interval, so the next read waits for the end of the interval.
    t.equal(intervals.length, 1);
    for (const word of ['third ', 'fourth ', 'fifth ']) {
      await sendUnread(peer, word);
    }
    t.same(reads, ['first ', 'second '], 'nothing is read during the interval');
    endInterval();
    await until(() => reads.join('').endsWith('fifth '), 'the rest is read');
    t.same(reads.slice(0, 2), ['first ', 'second ']);
    if (name === 'plain') t.same(reads.slice(2), ['third fourth fifth '], 'one read');
    else t.equal(reads.slice(2).join(''), 'third fourth fifth ', 'TLS delivers one record at a time');
    t.equal(intervals.length, 1, 'the next interval has started');
  });
}

t.test('the first reads after a request do not wait for an interval', async (t) => {
  const { socket, intervals, send, endInterval } = await plain(t);
  for (const request of ['one', 'two']) {
    socket.write(request);
    for (const part of ['headers ', 'opening ', 'ping ', 'token ']) await send(`${request} ${part}`);
    t.equal(intervals.length, 0, `${request}: four reads in no time`);
    await send(`${request} fifth `);
    t.equal(intervals.length, 1, `${request}: the next one begins an interval`);
    endInterval();
  }
});

t.test('bytes that arrive more slowly than the read interval are read immediately', async (t) => {
  const { intervals, send, advance } = await plain(t);
  for (const word of ['a', 'b', 'c', 'd']) {
    await send(word);
    advance(INTERVAL_MS);
  }
  t.equal(intervals.length, 0);
});

t.test('a connection that has become slow is read immediately again', async (t) => {
  const { intervals, send, advance, endInterval } = await plain(t);
  await send('a');
  await send('b');
  t.equal(intervals.length, 1);
  endInterval();
  advance(INTERVAL_MS);
  await send('c');
  t.equal(intervals.length, 0);
});

t.test('a new request on the connection ends the interval', async (t) => {
  const { socket, intervals, send, endInterval } = await plain(t);
  await send('the last ');
  await send('answer');
  t.equal(intervals.length, 1);
  socket.write('the next question');
  await send('the next answer');
  t.equal(intervals.length, 1, 'the first bytes of the new response are read immediately');
  for (const part of [' goes', ' on', ' and', ' on']) await send(part);
  t.equal(intervals.length, 2);
  endInterval();
  await send(' and on');
});

t.test('after the end of a response no interval starts, so that a close is noticed', async (t) => {
  const { socket, peer, intervals, send } = await plain(t);
  await send('an ');
  await send('5\r\nend\n\n\r\n');
  t.equal(intervals.length, 1, 'a chunk does not end the response');
  const other = await plain(t);
  await other.send('an ');
  await other.send('5\r\nend\n\n\r\n0\r\n\r\n');
  t.equal(other.intervals.length, 0);
  other.peer.end();
  await once(other.socket, 'end');
  socket.destroy();
  peer.destroy();
});

t.test('a large amount of data is read without intervals, a limited piece in each turn', async (t) => {
  const { socket, peer, reads, intervals } = await plain(t);
  const size = 8 * 1024 * 1024;
  let turns = 0;
  const countTurns = () => {
    turns += 1;
    if (turns > 0) setImmediate(countTurns);
  };
  countTurns();
  const totalByTurn = new Map<number, number>();
  socket.on('readable', () =>
    totalByTurn.set(
      turns,
      reads.reduce((sum, { length }) => sum + length, 0),
    ),
  );
  let started = 0;
  peer.write('x'.repeat(size));
  const total = () => reads.reduce((sum, { length }) => sum + length, 0);
  await until(() => {
    started += intervals.length; // The kernel may deliver small pieces in between.
    for (const then of intervals.splice(0)) then();
    return total() === size;
  }, 'all bytes are read');
  turns = Number.NEGATIVE_INFINITY;
  const totals = [0, ...totalByTurn.values()];
  const most = Math.max(...totals.slice(1).map((sum, i) => sum - (totals[i] as number)));
  t.ok(most <= 192 * 1024, `${most} bytes in one turn`);
  t.ok(started < reads.length / 4, `${started} intervals for ${reads.length} reads`);
});

t.test('a socket whose reader has stopped buffers at most 128 KiB', async (t) => {
  for (const [name, piece] of Object.entries({ 'large pieces': 256 * 1024, 'small pieces': 8 * 1024 })) {
    const { socket, peer, reads, intervals, advance, stopReading, resumeReading, endInterval } = await plain(t);
    stopReading();
    for (let i = 0; i < 40; i++) {
      if (i % 2 === 0) advance(INTERVAL_MS);
      else endInterval();
      peer.write('y'.repeat(piece));
      await sleep(2); // Paces the peer, so that the socket could read each piece separately.
    }
    t.ok(socket.readableLength <= 128 * 1024, `${name}: ${socket.readableLength} bytes are buffered`);
    resumeReading();
    await until(() => {
      if (intervals.length > 0) endInterval();
      return reads.join('').length === 40 * piece;
    }, 'all bytes are read');
  }
});

t.test('an interval that ends after the socket was destroyed reads nothing', async (t) => {
  const { socket, send, endInterval } = await plain(t);
  await send('a');
  await send('b');
  socket.destroy();
  endInterval();
  t.equal(socket.listenerCount('connect'), 0, 'no read is scheduled');
});
