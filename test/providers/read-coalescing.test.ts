import { once } from 'node:events';
import net, { type AddressInfo, type Socket } from 'node:net';
import tls from 'node:tls';
import t, { type Test } from 'tap';
import { coalesceReads } from '../../providers/wire/read-coalescing.ts';
import { until } from '../helper.ts';

/** Frames on real sockets, with time and the ends of frames in the hand of the test. */

const FRAME_MS = 10;

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
  const frames: (() => void)[] = [];
  coalesceReads(socket, {
    now: () => now,
    intervalMs: () => FRAME_MS,
    afterInterval: (then) => void frames.push(then),
  });
  const reads: string[] = [];
  let reading = true;
  const take = () => {
    if (!reading) return;
    for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) reads.push(String(chunk));
  };
  socket.on('readable', take);
  return {
    socket,
    peer,
    reads,
    frames,
    later: (ms: number) => {
      now += ms;
    },
    stopReading: () => {
      reading = false;
    },
    readOn: () => {
      reading = true;
      take();
    },
    endFrame: () => {
      for (const then of frames.splice(0)) then();
    },
    async say(text: string): Promise<void> {
      peer.write(text);
      await until(() => reads.at(-1)?.endsWith(text) === true, `read ${text}`);
    },
  };
}

const plain = (t: Test) => connection(t, (port) => net.connect({ port, host: '127.0.0.1' }), net.createServer());

/** Long enough for bytes on loopback to be read, if anybody reads. */
const aWhile = () => new Promise((resolve) => setTimeout(resolve, 50));

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

for (const [name, connected] of Object.entries({ plain, secure })) {
  t.test(`${name}: what comes within a frame is one read`, async (t) => {
    const { peer, reads, frames, say, endFrame } = await connected(t);
    await say('first ');
    await say('second '); // Too soon, which is known once it is there: from now on it is held.
    t.equal(frames.length, 1);
    for (const word of ['third ', 'fourth ', 'fifth ']) {
      peer.write(word);
      await aWhile();
    }
    t.same(reads, ['first ', 'second '], 'nothing is read');
    endFrame();
    await until(() => reads.join('').endsWith('fifth '), 'the rest');
    t.same(reads.slice(0, 2), ['first ', 'second ']);
    if (name === 'plain') t.same(reads.slice(2), ['third fourth fifth '], 'one read');
    else t.equal(reads.slice(2).join(''), 'third fourth fifth ', 'TLS hands over its records');
    t.equal(frames.length, 1, 'and the next frame has begun');
  });
}

t.test('what is slower than the frames is never held', async (t) => {
  const { frames, say, later } = await plain(t);
  for (const word of ['a', 'b', 'c', 'd']) {
    await say(word);
    later(FRAME_MS);
  }
  t.equal(frames.length, 0);
});

t.test('one that was held, and has become slow, is let go', async (t) => {
  const { frames, say, later, endFrame } = await plain(t);
  await say('a');
  await say('b');
  t.equal(frames.length, 1);
  endFrame();
  later(FRAME_MS);
  await say('c');
  t.equal(frames.length, 0);
});

t.test('a new request ends the frame', async (t) => {
  const { socket, frames, say, endFrame } = await plain(t);
  await say('the last ');
  await say('answer');
  t.equal(frames.length, 1);
  socket.write('the next question');
  await say('the next answer');
  t.equal(frames.length, 1, 'whose beginning is free');
  await say(' goes on');
  t.equal(frames.length, 2);
  endFrame();
  await say(' and on');
});

t.test('behind the end of a response nothing is held, so that a close is seen', async (t) => {
  const { socket, peer, frames, say } = await plain(t);
  await say('an ');
  await say('5\r\nend\n\n\r\n');
  t.equal(frames.length, 1, 'a chunk is no end');
  const other = await plain(t);
  await other.say('an ');
  await other.say('5\r\nend\n\n\r\n0\r\n\r\n');
  t.equal(other.frames.length, 0);
  other.peer.end();
  await once(other.socket, 'end');
  socket.destroy();
  peer.destroy();
});

t.test('a flood is read on at once, a piece a turn', async (t) => {
  const { socket, peer, reads, frames } = await plain(t);
  const size = 8 * 1024 * 1024;
  let turn = 0;
  const next = () => {
    turn += 1;
    if (turn > 0) setImmediate(next);
  };
  next();
  const perTurn = new Map<number, number>();
  socket.on('readable', () =>
    perTurn.set(
      turn,
      reads.reduce((sum, { length }) => sum + length, 0),
    ),
  );
  let begun = 0;
  peer.write('x'.repeat(size));
  const total = () => reads.reduce((sum, { length }) => sum + length, 0);
  await until(() => {
    begun += frames.length; // The kernel may hand over small pieces in between.
    for (const then of frames.splice(0)) then();
    return total() === size;
  }, 'all of it');
  turn = Number.NEGATIVE_INFINITY;
  const totals = [0, ...perTurn.values()];
  const most = Math.max(...totals.slice(1).map((sum, i) => sum - (totals[i] as number)));
  t.ok(most <= 192 * 1024, `${most} bytes in one turn`);
  t.ok(begun < reads.length / 4, `${begun} frames for ${reads.length} reads`);
});

t.test('nothing piles up behind a reader that has stopped', async (t) => {
  for (const [name, piece] of Object.entries({ flood: 256 * 1024, words: 8 * 1024 })) {
    const { socket, peer, reads, frames, later, stopReading, readOn, endFrame } = await plain(t);
    stopReading();
    for (let i = 0; i < 40; i++) {
      if (i % 2 === 0) later(FRAME_MS);
      else endFrame();
      peer.write('y'.repeat(piece));
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    t.ok(socket.readableLength <= 128 * 1024, `${name}: ${socket.readableLength} bytes wait`);
    readOn();
    await until(() => {
      if (frames.length > 0) endFrame();
      return reads.join('').length === 40 * piece;
    }, 'all of it');
  }
});

t.test('a socket that is gone when its frame ends', async (t) => {
  const { socket, say, endFrame } = await plain(t);
  await say('a');
  await say('b');
  socket.destroy();
  endFrame();
  t.equal(socket.listenerCount('connect'), 0, 'it is not asked to read once it is connected');
});
