import fc from 'fast-check';
import t from 'tap';
import { ask, read } from '../../client/client.ts';
import { sluiceTransport } from '../../client/client-ai.ts';
import { deferred } from '../helper.ts';
import { hurry } from './hurry.ts';
import { collect, failureOf, textOf } from './received.ts';

/** The client against bytes and responses that the test makes. */

/** A body in chunks, and the requests that were made for it. */
function answering(bodies: readonly (readonly Uint8Array[])[], urls: string[] = []): typeof fetch {
  const left = [...bodies];
  return async (input, init) => {
    if (init?.method) return Response.json({ url: '/streams/abc' });
    urls.push(String(input));
    const chunks = left.shift();
    if (!chunks) throw new TypeError('no more bodies');
    return new Response(
      new ReadableStream({
        start(controller) {
          for (const chunk of chunks) controller.enqueue(chunk);
          controller.close();
        },
      }),
    );
  };
}

/** An answer with everything that the HTML standard allows, and what is not an event of an answer. */
const EVENTS = [
  '\uFEFFspoilt',
  'id:',
  'event: ready',
  'retry: 10',
  'data: {}',
  '',
  'id: abc.0',
  'data: {"type":"start",',
  'data: "stream":"abc"}',
  '',
  ': hb',
  'id: abc.5',
  'data:{"type":"delta","content":" 你🚀\u2028"}',
  '',
  ': hb',
  '',
  'event: message',
  'unknown: field',
  'data',
  'data: {"type":"delta","content":"two"}',
  'id: abc.8',
  '',
  'event: other',
  'data: {"type":"delta","content":"never"}',
  '',
  'id: abc.end',
  'data: {"type":"end","answer":"x","finishReason":"stop"}',
  '',
  '',
];

t.test('bytes are decoded by the rules of the HTML standard, however they are cut into chunks', async (t) => {
  const lineEnds = fc.constantFrom('\n', '\r\n', '\r');
  const property = fc.asyncProperty(fc.array(lineEnds, { minLength: 1 }), fc.array(fc.nat(400)), async (ends, cuts) => {
    // A CR before an LF would be one line end.
    let isBehindCr = false;
    const text = EVENTS.map((line, i) => {
      const end = ends[i % ends.length] as string;
      const safe = isBehindCr && line === '' && end === '\n' ? '\r\n' : end;
      isBehindCr = safe === '\r';
      return line + safe;
    }).join('');
    const bytes = new TextEncoder().encode(text);
    const places = [0, ...cuts.filter((cut) => cut < bytes.length), bytes.length].sort((a, b) => a - b);
    const chunks = places.slice(1).map((place, i) => bytes.subarray(places[i], place));
    const events = await collect(ask('q', { url: 'http://x', fetch: answering([chunks]) }));
    return events.map(({ type }) => type).join() === 'start,delta,delta,end' && textOf(events) === ' 你🚀\u2028two';
  });
  await fc.assert(property, { seed: 25, numRuns: 300 });
  t.pass('300 ways to cut');
});

t.test('the next request continues behind the last complete event that has an id', async (t) => {
  const encode = (text: string) => [new TextEncoder().encode(text)];
  const urls: string[] = [];
  const bodies = [
    encode('retry: 1\nid: abc.0\ndata: {"type":"start"}\n\nid: abc.3\ndata: {"type":"delta"'),
    encode('id: abc.3\ndata: {"type":"delta","content":"one"}\n\nid: abc.9\ndata: {"type":"delta","content":"tw'),
    encode(
      'id: abc.3\nid: abc.3\nevent: ready\ndata: {}\n\nid: abc.9\ndata: {"type":"delta","content":"two"}\n\n' +
        'data: {"type":"status","resumable":false}\n\n',
    ),
    encode('id: abc.end\ndata: {"type":"end","answer":"onetwo","finishReason":"stop"}\n\n'),
  ];
  const running = ask('q', { url: 'http://x', fetch: answering(bodies, urls) });
  t.equal(textOf(await collect(running)), 'onetwo');
  t.same(
    urls.map((url) => new URL(url).searchParams.get('lastEventId')),
    ['', '', 'abc.3', 'abc.9'],
  );
});

t.test('a silent connection is replaced, and failures in a row end with a stable error', async (t) => {
  const waits = hurry(t);
  let reads = 0;
  const silent: typeof fetch = async (_, init) => {
    if (init?.method) return Response.json({ url: '/streams/abc' });
    reads += 1;
    return new Response(
      new ReadableStream({ start: (c) => init?.signal?.addEventListener('abort', () => c.error(init.signal?.reason)) }),
    );
  };
  t.match(await failureOf(ask('q', { url: 'http://x', fetch: silent })), { code: 'unreachable', retryable: true });
  t.equal(reads, 9, 'nine attempts');
  const keys: unknown[] = [];
  const unreachable: typeof fetch = async (_, init) => {
    keys.push(new Headers(init?.headers).get('idempotency-key'));
    throw new TypeError('refused');
  };
  waits.length = 0;
  t.match(await failureOf(ask('q', { url: 'http://x', fetch: unreachable })), { code: 'unreachable' });
  t.same(waits, [1_000, 2_000, 4_000, ...Array(5).fill(8_000)], 'the pauses grow up to a bound');
  t.equal(keys.length, 9, 'nine attempts');
  t.equal(new Set(keys).size, 1, 'the same key');
  let attempts = 0;
  const busy: typeof fetch = async () => {
    attempts += 1;
    const retryAfter = attempts === 1 ? '60' : '61';
    return Response.json(
      { error: { code: 'rate_limited', message: 'Wait.' } },
      { status: 429, headers: { 'retry-after': retryAfter } },
    );
  };
  t.match(await failureOf(ask('q', { url: 'http://x', fetch: busy })), {
    code: 'rate_limited',
    message: 'Wait.',
    retryAfter: 61,
  });
  t.equal(attempts, 2, 'a minute is waited for, and no more');
});

t.test('a refusal within a stream is asked again with the same key, before the first part only', async (t) => {
  const encode = (text: string) => [new TextEncoder().encode(`retry: 1\n${text}`)];
  const refusal =
    'id: r.end\ndata: {"type":"error","code":"overloaded","message":"Busy.","retryable":true,"retryAfter":0.001}\n\n';
  const end = 'id: abc.end\ndata: {"type":"end","answer":"","finishReason":"stop"}\n\n';
  const start = 'id: abc.0\ndata: {"type":"start"}\n\n';
  const part = 'id: abc.1\ndata: {"type":"delta","content":"a"}\n\n';
  const again = ask('q', {
    url: 'http://x',
    fetch: answering([encode(refusal), encode(start + refusal), encode(start + end)]),
  });
  t.same(
    (await collect(again)).map(({ type }) => type),
    ['start', 'start', 'end'],
  );
  const late = ask('q', { url: 'http://x', fetch: answering([encode(start + part + refusal), encode(start + end)]) });
  t.match(await failureOf(late), { code: 'overloaded' });
  t.equal(late.text, 'a', 'the text stays');
  const other = read('/streams/abc', { url: 'http://x', fetch: answering([encode(refusal), encode(end)]) });
  t.match(await failureOf(other), { code: 'overloaded' }, 'an answer that is read only has no question');
  const endless = ask('q', { url: 'http://x', fetch: answering(Array(20).fill(encode(start + refusal))) });
  t.match(await failureOf(endless), { code: 'overloaded' }, 'not for ever');
});

t.test('the transport repeats a request that is lost, up to a bound', async (t) => {
  const waits = hurry(t);
  const question = { chatId: 'c', messages: [] };
  let attempts = 0;
  const { sendMessages, reconnectToStream } = sluiceTransport({
    url: 'http://x',
    fetch: async () => {
      attempts += 1;
      throw new TypeError('fetch failed');
    },
  });
  await t.rejects(sendMessages(question), { message: 'fetch failed' });
  t.equal(attempts, 5);
  t.same(waits, [1_000, 2_000, 4_000, 8_000]);
  await t.rejects(reconnectToStream(question), { message: 'fetch failed' });
  t.equal(attempts, 10);
});

t.test('a stop is told by a request that outlives the page, with the ticket of the URL', async (t) => {
  const sent: [string, RequestInit | undefined][] = [];
  const { promise, resolve } = deferred();
  const running = ask('q', {
    url: 'http://x',
    fetch: async (input, init) => {
      sent.push([String(input), init]);
      if (init?.body) return Response.json({ url: '/streams/abc?ticket=t' });
      resolve();
      return new Response(new ReadableStream());
    },
  });
  await promise;
  running.stop();
  await running.answer;
  t.match(sent.at(-1), ['http://x/streams/abc/stop?ticket=t', { method: 'POST', keepalive: true }]);
  t.equal(sent.length, 3, 'question, reading, stop');
});

t.test('a reader that gives its slot away comes back, however often, and a refused one keeps its URL', async (t) => {
  hurry(t);
  const end = 'id: abc.end\ndata: {"type":"end","answer":"","finishReason":"stop"}\n\n';
  const requests: string[] = [];
  let left = 12;
  const taken = read('/streams/abc', {
    url: 'http://x',
    fetch: async () => {
      left -= 1;
      if (left > 0) throw new DOMException('taken', 'AbortError');
      return new Response(end);
    },
  });
  t.match(await taken.answer, { type: 'end' });
  t.equal(left, 0, 'more often than a connection may fail');
  const refused = read('/streams/abc?ticket=old', {
    url: 'http://x',
    ticket: () => 't',
    fetch: async (input, init) => {
      requests.push(`${init?.method ?? 'GET'} ${input}`);
      return requests.length === 1
        ? Response.json({ error: { code: 'unauthorized' } }, { status: 401 })
        : new Response(end);
    },
  });
  t.match(await refused.answer, { type: 'end' });
  t.same(requests, Array(2).fill('GET http://x/streams/abc?ticket=old&lastEventId='));
});
