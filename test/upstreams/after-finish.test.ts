import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import t from 'tap';

import { ask, completion, completionStream, type Playing, play, playTogether } from './play.ts';
import { anthropic, event, gemini, ollama, openai } from './wire.ts';

/**
 * Plays everything that can follow a finish reason, in every dialect: only an error object turns a complete answer into a failure,
 * and no other target ever continues it.
 */

const OPEN = 'HTTP/1.1 200 OK\r\ncontent-type: TYPE\r\ntransfer-encoding: chunked\r\n\r\n';
const chunked = (body: string | Buffer) =>
  Buffer.concat([Buffer.from(`${Buffer.byteLength(body).toString(16)}\r\n`), Buffer.from(body), Buffer.from('\r\n')]);

interface Dialect {
  readonly contentType: string;
  readonly answer: string;
  readonly error: string;
  readonly heartbeat: string;
}

const DIALECTS: Readonly<Record<string, Dialect>> = {
  'openai-compatible': {
    contentType: 'text/event-stream',
    answer: openai.text('whole') + openai.finish(),
    error: event({ error: { message: 'late', type: 'server_error' } }),
    heartbeat: ': heartbeat\n\n',
  },
  anthropic: {
    contentType: 'text/event-stream',
    answer: anthropic.start() + anthropic.text('whole') + anthropic.finish(),
    error: event({ type: 'error', error: { type: 'overloaded_error', message: 'late' } }, 'error'),
    heartbeat: event({ type: 'ping' }, 'ping'),
  },
  gemini: {
    contentType: 'text/event-stream',
    answer: gemini.chunk([{ text: 'whole' }], 'STOP'),
    error: event({ error: { code: 500, message: 'late', status: 'INTERNAL' } }),
    heartbeat: ': heartbeat\n\n',
  },
  ollama: {
    contentType: 'application/x-ndjson',
    answer: ollama.text('whole') + ollama.done(),
    error: `${JSON.stringify({ error: 'late' })}\n`,
    heartbeat: '\n',
  },
};

/** Actions of the upstream after the finish reason. */
const ENDINGS: Readonly<Record<string, (socket: Socket, dialect: Dialect) => void>> = {
  silence: () => {},
  heartbeats: (socket, { heartbeat }) => {
    const timer = setInterval(() => socket.write(chunked(heartbeat)), 50);
    socket.on('close', () => clearInterval(timer));
  },
  'the end of the body': (socket) => socket.write(chunked('')),
  'FIN without the last chunk': (socket) => socket.end(),
  RST: (socket) => setImmediate(() => socket.resetAndDestroy()),
  'undecodable bytes': (socket) => socket.write(chunked(Buffer.from('data: {"\xff\xfe\n\n{]\n\n', 'latin1'))),
  'bytes that break the chunked encoding': (socket) => socket.write('zz\r\n'),
  '[DONE]': (socket) => socket.write(Buffer.concat([chunked('data: [DONE]\n\n'), chunked('')])),
};

/** A route for each provider whose second target may continue the answer of the first. */
const routes = (names: readonly string[]) =>
  `models:\n${names.map((name) => `  - { name: route-${name}, onMidStreamFailure: continue, targets: [{ provider: ${name}, model: m }, { provider: ${name}, model: n }] }\n`).join('')}`;

t.test('after the finish reason', async (t) => {
  t.jobs = 4;
  for (const [provider, dialect] of Object.entries(DIALECTS)) {
    const answerWith = (ending: (socket: Socket, dialect: Dialect) => void) => (socket: Socket) => {
      socket.setNoDelay(true).write(OPEN.replace('TYPE', dialect.contentType));
      socket.write(chunked(dialect.answer), () => ending(socket, dialect));
    };
    t.test(provider, async (t) => {
      t.jobs = 16;
      const endings = Object.entries(ENDINGS);
      const late: (typeof ENDINGS)[string] = (socket) => socket.write(chunked(dialect.error));
      const upstreams = [...endings.map(([, ending]) => ending), late].map((ending) => ({
        provider,
        socket: answerWith(ending),
      }));
      const names = upstreams.map((_, i) => (i === 0 ? 'p' : `p${i}`));
      const served = await playTogether(t, upstreams, routes(names));
      for (const [i, [ending]] of endings.entries()) {
        t.test(`${ending} is the end of a complete answer`, async (t) => {
          const { url, calls, name } = served[i] as Playing;
          const model = `${name}/m`;
          const complete = { text: 'whole', finish: 'stop', error: undefined };
          const apis = ['GET /ask/stream', '/v1, streamed', '/v1, whole', 'onMidStreamFailure: continue'];
          const outcomes = await Promise.all([
            ask(url, model),
            completionStream(url, model),
            completion(url, model),
            ask(url, `route-${name}`),
          ]);
          for (const [n, api] of apis.entries()) t.match(outcomes[n], complete, api);
          t.equal(calls(), outcomes.length, 'each question is asked once');
        });
      }
      t.test('an error object is an error', async (t) => {
        const { url, name } = served.at(-1) as Playing;
        const model = `${name}/m`;
        t.match(
          await ask(url, model),
          { text: 'whole', finish: undefined, error: 'upstream_error' },
          'GET /ask/stream',
        );
        t.match(await completionStream(url, model), { error: 'upstream_error', finish: undefined }, '/v1, streamed');
        t.match(await completion(url, model), { error: 'upstream_error' }, '/v1, whole');
      });
    });
  }

  t.test('the time limits of a model do not end an answer that has its finish reason', async (t) => {
    const models = 'models: [{ name: short, idleMs: 100, totalMs: 700, targets: [{ provider: p, model: m }] }]\n';
    const reply = (response: ServerResponse) =>
      void response
        .writeHead(200, { 'content-type': 'text/event-stream' })
        .write(DIALECTS['openai-compatible']?.answer);
    const { url } = await play(t, { reply }, models);
    t.match(await ask(url, 'short'), { text: 'whole', finish: 'stop', error: undefined });
  });
});
