import t from 'tap';
import { bellaAt, serve, until } from './helper.ts';
import { open, type Reading } from './sse-client.ts';
import { type Script, silent, sse, startUpstream, text } from './upstream.ts';

/** Without a grace time, the disconnect of the last reader aborts the upstream call in every state of the call. */

const REPETITIONS = 50;

/** True while the upstream cannot write, because the service does not read. */
let isBlocked = false;
const endless: Script = ({ response }) => {
  const block = text('x'.repeat(8_000));
  sse(response);
  isBlocked = false;
  const writeMore = () => {
    isBlocked = false;
    while (!response.destroyed && !isBlocked) isBlocked = !response.write(block);
  };
  response.on('drain', writeMore);
  writeMore();
};

interface State {
  readonly script: Script;
  /** Resolves when the call is in the state. */
  reached(reading: Reading): Promise<unknown>;
}

const STATES: Record<string, State> = {
  'before headers': { script: silent, reached: (reading) => reading.until('start') },
  'before the first token': {
    script: ({ response }) => void sse(response).write(': thinking\n\n'),
    reached: (reading) => reading.until('start'),
  },
  'mid-stream': {
    script: ({ response }) => void sse(response).write(text('partial')),
    reached: (reading) => reading.until('delta'),
  },
  'under back-pressure': {
    script: endless,
    async reached(reading) {
      await reading.until('delta');
      reading.response.pause();
      await until(() => isBlocked, 'the upstream cannot write');
    },
  },
};

for (const [name, { script, reached }] of Object.entries(STATES)) {
  t.test(`a disconnect ${name} aborts the upstream call`, async (t) => {
    const upstream = await startUpstream(t, script);
    const env = { STREAM_GRACE_MS: '0', STREAM_MAX_CHARS: '200000000' };
    const { app, url } = await serve(t, { env: bellaAt(upstream.url, env) });
    for (let i = 1; i <= REPETITIONS; i++) {
      const reading = await open(`${url}/ask/stream?question=q`);
      const call = await upstream.call(i);
      await reached(reading);
      reading.cut();
      // If only a deadline ended it, this would take minutes.
      await call.closed;
      t.equal(call.finished, false, 'the upstream call is aborted');
    }
    await until(() => app.streams.active === 0, 'no generation is left');
  });
}
