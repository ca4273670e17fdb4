import { type IncomingMessage, request } from 'node:http';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { MemoryStore } from '../../plugins/streams/memory/store.ts';
import type { StreamStore } from '../../plugins/streams/types.ts';
import type { Provider } from '../../providers/types.ts';
import { serve, until } from '../helper.ts';
import { type ManualClock, manualClock } from '../manual-clock.ts';
import {
  type Decoded,
  type Decoder,
  everyBlankLineDecoder,
  pythonLinesDecoder,
  webkitDecoder,
  whatwgDecoder,
} from './sse-decoders.ts';

/** The bytes of all SSE routes, read by every kind of decoder that clients have: whole, and cut at every byte. */

const HEARTBEAT_MS = 4_000;
const WORDS = ['你好 ', 'a\u2028b\u2029c\u0085d', '\n\ndata: x\r', ' 🚀 ', 'L'.repeat(200), ' end'];
const ANSWER = WORDS.join('');

interface Body {
  readonly response: IncomingMessage;
  text(): string;
  readonly ended: Promise<void>;
}

interface Service {
  readonly url: string;
  readonly clock: ManualClock;
  /** Lets the n-th word of every answer be sent; then the answers end. */
  release(): void;
  /** If true, no stream can be opened. */
  setUnavailable(isUnavailable: boolean): void;
}

/** Starts a service with a provider that waits for `release` before each word, and sends no more than five answers at once. */
async function setUp(t: Test): Promise<Service> {
  const clock = manualClock();
  let released = 0;
  const waiting = new Set<() => void>();
  const provider: Provider = {
    name: 'bella',
    async *stream() {
      for (const [i, text] of WORDS.entries()) {
        while (released <= i) await new Promise<void>((resolve) => waiting.add(resolve));
        yield { type: 'text', text };
      }
      while (released <= WORDS.length) await new Promise<void>((resolve) => waiting.add(resolve));
      yield { type: 'finish', reason: 'stop' };
    },
    async close() {},
  };
  const limits = { highWaterMark: 16_384, flushMs: 0, ttlMs: 1e9, maxTotalBytes: 1e8 };
  const memory = new MemoryStore({ clock, ...limits, onEvicted() {} });
  let isUnavailable = false;
  const store: StreamStore = {
    create: (info, key) => memory.create(info, key),
    openByKey: (key) => memory.openByKey(key),
    openByChat: (chat) => memory.openByChat(chat),
    close: () => memory.close(),
    async open(id) {
      if (isUnavailable) throw new Error('unavailable');
      return memory.open(id);
    },
  };
  const env = {
    BELLA_API_KEY: 'k',
    DEFAULT_MODEL: 'bella/m',
    STREAM_FLUSH_MS: '0',
    STREAM_HEARTBEAT_MS: String(HEARTBEAT_MS),
    MAX_GENERATIONS: '4',
  };
  const { url } = await serve(t, { env, providers: { bella: provider }, clock, store });
  const release = () => {
    released += 1;
    for (const wake of waiting) wake();
    waiting.clear();
  };
  const setUnavailable = (value: boolean) => {
    isUnavailable = value;
  };
  return { url, clock, release, setUnavailable };
}

/** Opens a response and collects its body. */
function open(url: string, { body, ...headers }: Record<string, unknown> = {}): Promise<Body> {
  return new Promise((resolve, reject) => {
    const json = body === undefined ? {} : { 'content-type': 'application/json' };
    const outgoing = request(
      url,
      {
        agent: false,
        method: body === undefined ? 'GET' : 'POST',
        headers: { accept: 'text/event-stream', ...json, ...headers },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        const ended = new Promise<void>((onEnd) => response.once('end', onEnd));
        resolve({ response, ended, text: () => Buffer.concat(chunks).toString() });
      },
    );
    outgoing.on('error', reject).end(body === undefined ? undefined : JSON.stringify(body));
  });
}

const read = async (url: string, headers: Record<string, unknown> = {}): Promise<Body> => {
  const body = await open(url, headers);
  await body.ended;
  return body;
};

/** Comments, and under `/v1` chunks without content. */
const HEARTBEAT = /^: hb$|"delta":\{("role":"assistant","content":"")?\},"logprobs":null,"finish_reason":null/gm;

const heartbeats = (body: Body) => [...body.text().matchAll(HEARTBEAT)].length;

/** Returns the text of events of any of the protocols. */
function textOf(events: readonly Decoded[]): string {
  const values = events.filter(({ data }) => data !== '[DONE]').map(({ data }) => JSON.parse(data));
  return values
    .map(({ type, content, delta, choices }) => {
      if (type === 'delta') return content;
      if (type === 'text-delta') return delta;
      return choices?.[0]?.delta.content ?? '';
    })
    .join('');
}

t.test('every decoder reads every SSE route, with heartbeats between all events', async (t) => {
  const service = await setUp(t);
  const { url, clock, release } = service;
  const messages = [{ role: 'user', content: 'q' }];
  const uiMessages = [{ id: 'm', role: 'user', parts: [{ type: 'text', text: 'q' }] }];
  // Under /v1, a response begins with the first word or the first heartbeat.
  const chat = open(`${url}/v1/chat/completions`, { body: { messages, stream: true } });
  const bodies: Record<string, Body> = {
    'GET /ask/stream': await open(`${url}/ask/stream?question=q&key=k&lastEventId=`),
    'POST /ask/stream': await open(`${url}/ask/stream`, { body: { question: 'q' } }),
    'POST /ui/chat': await open(`${url}/ui/chat`, { body: { id: 'c', messages: uiMessages, resumable: true } }),
    'GET /ui/chat/:id/stream': await open(`${url}/ui/chat/c/stream`),
  };
  const first = bodies['GET /ask/stream'] as Body;
  await until(() => first.text().includes('"start"'), 'the answer starts');
  const id = /"stream":"([\w-]+)"/.exec(first.text())?.[1] as string;
  bodies['GET /streams/:id'] = await open(`${url}/streams/${id}`);
  bodies['GET /streams/:id, resumed'] = await open(`${url}/streams/${id}?lastEventId=${id}.0`);
  bodies['POST /ask/stream, resumed'] = await open(`${url}/ask/stream`, { body: {}, 'last-event-id': `${id}.0` });

  let hasBegun = false;
  const onceBegun = chat.then(() => {
    hasBegun = true;
  });
  await until(() => {
    clock.advance(HEARTBEAT_MS / 4);
    return hasBegun;
  }, 'the response of /v1 begins');
  await onceBegun;
  bodies['POST /v1/chat/completions'] = await chat;

  const refused = await read(`${url}/ask/stream?question=another`);
  const unknown = await read(`${url}/ask/stream?question=q`, { 'last-event-id': `${'x'.repeat(22)}.1` });
  service.setUnavailable(true);
  const unavailable = await read(`${url}/streams/${id}`, { 'last-event-id': `${id}.0` });
  const unread = await read(`${url}/streams/${id}`);
  service.setUnavailable(false);

  for (const i of [...WORDS.keys(), WORDS.length]) {
    for (const [name, body] of Object.entries(bodies)) {
      const before = heartbeats(body);
      for (let ticks = 0; ticks < 8 && heartbeats(body) === before; ticks++) {
        clock.advance(HEARTBEAT_MS / 4);
        await new Promise(setImmediate);
      }
      await until(() => heartbeats(body) > before, `a heartbeat before word ${i} of ${name}`);
    }
    release();
    const isLast = i === WORDS.length;
    if (isLast) break;
    const word = JSON.stringify(WORDS[i])
      .slice(1, -1)
      .replace(/[\u0085\u2028\u2029].*/s, '');
    for (const body of Object.values(bodies)) await until(() => body.text().includes(word), `word ${i}`);
  }
  for (const [name, body] of Object.entries(bodies)) {
    await body.ended;
    const own = /ask|streams/.test(name);
    t.equal(body.response.headers.incremental, '?1', `${name}: Incremental`);
    t.equal([...body.text().matchAll(/^retry:/gm)].length, own ? 1 : 0, `${name}: retry in the opening block only`);
    t.notMatch(body.text(), /^: hb\n\n/m, `${name}: no blank line behind a heartbeat`);
    t.ok(heartbeats(body) > WORDS.length, `${name}: heartbeats between all events`);
    for (const decoder of [whatwgDecoder(), everyBlankLineDecoder(), pythonLinesDecoder(), webkitDecoder()])
      t.equal(textOf(decoder.connection(Buffer.from(body.text()), true)), ANSWER, `${name}: the text`);
  }

  const opening = (place: string) =>
    new RegExp(
      `^${place === '' ? 'event: ready' : `id: ${place}`}\nid: ${place}\nevent: ready\nretry: \\d+\ndata: {}\n\n`,
    );
  const special: [string, Body, RegExp, string[]][] = [
    ['a refused question', refused, opening(''), ['error']],
    ['an unknown stream', unknown, opening(`${'x'.repeat(22)}\\.1`), ['error']],
    ['a resume that cannot be served', unavailable, opening(`${id}\\.0`), []],
    ['a stream that cannot be read', unread, opening(''), []],
  ];
  for (const [name, body, pattern, types] of special) {
    t.equal(body.response.statusCode, 200, name);
    t.match(body.text(), pattern, `${name}: the opening block`);
    for (const decoder of [whatwgDecoder(), everyBlankLineDecoder(), pythonLinesDecoder(), webkitDecoder()]) {
      const events = decoder.connection(Buffer.from(body.text()), true).filter((event) => event.name === '');
      t.same(
        events.map(({ data }) => JSON.parse(data).type),
        types,
        `${name}: unnamed events`,
      );
    }
  }
  await assertCutsAreExact(t, url, Buffer.from(first.text()));
});

/** Decoders that resume. `emitsAll`: also hands out named events, and resumes behind an id before its event is emitted. */
const RESUMING: Record<string, { create(): Decoder; isClean: boolean; emitsAll?: boolean }> = {
  'the HTML standard': { create: whatwgDecoder, isClean: false },
  'WebKit, connection broken': { create: webkitDecoder, isClean: false },
  'WebKit, connection closed': { create: webkitDecoder, isClean: true },
  'one that emits at every blank line': { create: everyBlankLineDecoder, isClean: false, emitsAll: true },
};

/** Cuts the response of a finished answer at every byte, and a second response at random bytes. */
async function assertCutsAreExact(t: Test, url: string, first: Buffer): Promise<void> {
  const responses = new Map<string, Promise<Buffer>>();
  const resume = (id: string): Promise<Buffer> => {
    const known = responses.get(id);
    if (known) return known;
    const body = read(`${url}/ask/stream?question=q&key=k`, id === '' ? {} : { 'last-event-id': id });
    const bytes = body.then((one) => Buffer.from(one.text()));
    responses.set(id, bytes);
    return bytes;
  };

  /** Returns what a page shows that is cut at these bytes, or what went wrong. */
  const readWithCuts = async (name: string, cuts: readonly number[]): Promise<string> => {
    const { create, isClean, emitsAll } = RESUMING[name] as (typeof RESUMING)[string];
    const decoder = create();
    let [text, answer, starts] = ['', '', 0];
    const take = (bytes: Buffer, isLast: boolean) => {
      for (const { data, name } of decoder.connection(bytes, isClean || isLast)) {
        if (name !== '' && !emitsAll) continue;
        const event = JSON.parse(data);
        if (event.type === 'start') starts += 1;
        if (event.type === 'delta') text += event.content;
        if (event.type === 'end') answer = event.answer;
      }
    };
    for (const [i, cut] of [...cuts, Number.POSITIVE_INFINITY].entries()) {
      const response = i === 0 ? first : await resume(decoder.lastEventId);
      let end = Math.min(cut, response.length);
      // Between the line of an id and the blank line, nothing can help such a client.
      if (emitsAll && /\nid: \S+\n$/.test(response.subarray(0, end).toString('latin1'))) end += 1;
      take(response.subarray(0, end), end === response.length);
      if (answer !== '') break;
    }
    return text === ANSWER && answer === ANSWER && starts === 1
      ? ''
      : JSON.stringify([name, cuts, starts, text, answer]);
  };
  const tryCuts = (name: string, cuts: readonly number[]) =>
    readWithCuts(name, cuts).catch((error) => `${name}, cut at ${cuts}: ${error}`);

  for (const name of Object.keys(RESUMING)) {
    const wrong: string[] = [];
    for (let n = 0; n < first.length; n++) {
      const fault = await tryCuts(name, [n]);
      if (fault !== '') wrong.push(fault);
    }
    t.same(wrong.slice(0, 5), [], `${name}: a cut at each of ${first.length} bytes loses and repeats nothing`);
  }
  const byte = fc.nat(first.length - 1);
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...Object.keys(RESUMING)),
      fc.array(byte, { minLength: 2, maxLength: 4 }),
      async (name, cuts) => {
        const fault = await tryCuts(name, cuts);
        if (fault !== '') throw new Error(fault);
      },
    ),
    { numRuns: 1_000 },
  );
  t.pass('two to four cuts at random bytes lose and repeat nothing');
}
