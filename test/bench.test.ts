import { createServer, get, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { AnswerFailed, type Api, createChecker, deltaOf, isRefusal } from '../bench/client.ts';
import { comparePeers, type Loads } from '../bench/peers/compare.ts';
import type { Peer } from '../bench/peers/list.ts';
import { type PeerResults, peersMarkdown } from '../bench/peers/report.ts';
import { expectedAnswer, parseQuestion, questionText } from '../bench/question.ts';
import { markdown, plot } from '../bench/report.ts';
import { measureCancellation, quantiles, runLoad } from '../bench/scenarios.ts';
import { findFaults, runSoak, trend } from '../bench/soak-run.ts';
import type { SystemUnderTest } from '../bench/system-under-test.ts';
import { startUpstream } from '../bench/upstream.ts';
import { bellaAt, serve } from './helper.ts';

/** Checks that the benchmark notices wrong answers. */

const LOAD = { streams: 4, tokens: 50, gapMs: 1, rampMs: 10 };

const systemAt = (url: string): SystemUnderTest => ({
  name: 'test',
  url,
  cpuSeconds: () => 0,
  waitSeconds: () => 0,
  rssBytes: () => 0,
  descriptors: () => Number.NaN,
  heapBytes: async () => Number.NaN,
  stop: async () => {},
});

/** Loads of a comparison that take a moment. */
const TINY_LOADS: Loads = {
  warmUp: LOAD,
  measured: { tiny: LOAD },
  held: LOAD,
  growing: { tokens: 10, gapMs: 1, rampMs: 10 },
  streamCounts: [2, 4],
  maxDelayMs: Number.POSITIVE_INFINITY,
  leaving: { readers: 2, tokens: 200 },
};

const peerAt = (name: string, url: string, api: Api = 'ask'): Peer => ({
  name,
  title: name,
  start: async () => ({ ...systemAt(url), api }),
});

const resultsOf = (comparison: Pick<PeerResults, 'peers' | 'skipped'>): PeerResults => ({
  ...comparison,
  ...{ date: '2026-01-01', node: 'v26', python: '3', cores: 2, cpu: 'c' },
});

/** Starts a server and returns its URL. */
async function listen(t: Test, listener: RequestListener): Promise<string> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** Starts a proxy that passes responses through `change`. */
function proxy(t: Test, upstream: string, change: (text: string) => string): Promise<string> {
  return listen(t, (request, response) => {
    const outgoing = get(upstream + request.url, { agent: false }, (answer) => {
      response.writeHead(200, answer.headers);
      answer
        .setEncoding('utf8')
        .on('data', (text: string) => response.write(change(text)))
        .on('end', () => response.end())
        .on('error', () => response.destroy());
    });
    // A load that has failed leaves calls behind, which end with the upstream.
    outgoing.on('error', () => response.destroy());
    response.on('close', () => outgoing.destroy());
  });
}

t.test('the checker accepts the expected answer, however it is split, and rejects every other', async (t) => {
  const answer = expectedAnswer({ tokens: 20 });
  const check = (...pieces: string[]) => {
    const tokens: number[] = [];
    const checker = createChecker({ tokens: 20 }, (index) => tokens.push(index));
    for (const piece of pieces) checker.add(piece);
    checker.end();
    return tokens.length;
  };
  t.equal(check(answer), 20, 'the answer in one piece');
  t.equal(check(...answer), 20, 'the answer in single characters');
  t.throws(() => check(answer.slice(1)), 'the first character is missing');
  t.throws(() => check(answer.slice(0, -1)), 'the last character is missing');
  t.throws(() => check(`${answer}x`), 'there is a character too many');
  t.throws(() => check(answer.replace('stream', 'strean')), 'a character is altered');
  t.equal(deltaOf('{"type":"delta","content":"a"}'), 'a', 'deltas of Sluice are read');
  t.equal(deltaOf('{"choices":[{"delta":{"content":"a"}}]}'), 'a', 'deltas of OpenAI are read');
  t.throws(() => deltaOf('{"type":"error","code":"x"}'), 'an error event is no delta');
  const question = { id: 'abc1', tokens: 3, gapMs: 20 };
  t.same(
    parseQuestion(`/ask/stream?question=${questionText(question)}`),
    question,
    'a question is read back from its text',
  );
  t.same(quantiles([5, 1, 4, 2, 3]), { p50: 3, p99: 5 }, 'quantiles of unsorted values');
});

t.test('a load succeeds, also through a proxy, and fails if an answer is altered', async (t) => {
  const upstream = await startUpstream();
  t.teardown(() => upstream.close());
  const { url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_GRACE_MS: '0' }) });
  for (const base of [url, await proxy(t, upstream.url, (text) => text)]) {
    const figures = await runLoad(systemAt(base), upstream, LOAD);
    t.equal(figures.streams, 4, 'all streams are counted');
    t.ok(figures.tokensPerSecond > 0, 'tokens are counted');
    t.ok(figures.firstTokenMs.p50 > 0 && Number.isFinite(figures.firstTokenMs.p99), 'time to first token is measured');
    t.ok(figures.delayMs.p50 >= 0 && Number.isFinite(figures.delayMs.p99), 'delay is measured');
  }
  const cancelled = await measureCancellation(systemAt(url), upstream, 3);
  t.ok(cancelled.p99 > 0 && Number.isFinite(cancelled.p99), 'time to cancel is measured');
  let chunksLeft = 3;
  const altered = await proxy(t, upstream.url, (text) =>
    --chunksLeft === 0 ? text.replace(/"content":"./, '"content":"#') : text,
  );
  await t.rejects(runLoad(systemAt(altered), upstream, LOAD), /differs/, 'an altered answer');
  const cut = await proxy(t, upstream.url, (text) => text.replaceAll(/data: .*token.*\n\n/g, ''));
  await t.rejects(runLoad(systemAt(cut), upstream, LOAD), /differs|characters/, 'an answer without deltas');
});

t.test('a load counts refusals apart from its figures, and fails for other errors', async (t) => {
  const upstream = await startUpstream();
  t.teardown(() => upstream.close());
  let questions = 0;
  let status = 503;
  const url = await listen(t, (request, response) => {
    if (++questions % 2 === 0) return void response.writeHead(status).end();
    const outgoing = get(upstream.url + request.url, { agent: false }, (answer) => {
      response.writeHead(200, answer.headers);
      answer.on('error', () => response.destroy()).pipe(response);
    });
    // The readers of a load that has failed leave, and the upstream ends with the test.
    outgoing.on('error', () => response.destroy());
    response.on('close', () => outgoing.destroy());
  });
  const system = systemAt(url);
  const figures = await runLoad({ ...system, cpuSeconds: () => questions }, upstream, LOAD);
  t.equal(figures.refused, 2, 'refused questions are counted');
  t.equal(figures.cpuMicrosPerToken, (4 * 1e6) / (2 * LOAD.tokens), 'CPU is that of the tokens that came');
  t.ok(figures.firstTokenAddedMs.p50 <= figures.firstTokenMs.p50, 'the time of the upstream does not count');
  status = 500;
  await t.rejects(runLoad(system, upstream, LOAD), /status 500/, 'an error');
  t.ok(isRefusal(new AnswerFailed('overloaded', '')), 'an event of Sluice is a refusal');
});

t.test('a comparison measures each peer and skips one that is missing, with a message', async (t) => {
  const upstream = await startUpstream();
  t.teardown(() => upstream.close());
  const { url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_GRACE_MS: '0' }) });
  let wasStarted = false;
  const missing: Peer = {
    ...peerAt('missing', url),
    install: async () => {
      throw new Error('pip: not found');
    },
    start: async () => {
      wasStarted = true;
      return systemAt(url);
    },
  };
  const messages: string[] = [];
  const peers = [peerAt('ask', url), missing, peerAt('chat', url, 'chat')];
  const comparison = await comparePeers(
    peers,
    upstream,
    () => TINY_LOADS,
    (message) => messages.push(message),
  );
  t.notOk(wasStarted, 'a peer that is not installed is not started');
  t.same(comparison.skipped, ['missing: pip: not found']);
  t.match(messages.join('\n'), 'missing: skipped: pip: not found', 'the message comes during the run, too');
  for (const name of ['ask', 'chat']) {
    const figures = comparison.peers.find(({ title }) => title === name);
    t.match(figures, { loads: { tiny: { streams: 4, refused: 0 } }, held: { streams: 4 } }, `${name}: the loads`);
    t.equal(figures?.capacity.streams, 4, `${name}: the number of streams grows to the last`);
    t.match(figures?.leavingMs, { p50: Number, p99: Number }, `${name}: readers that leave`);
  }
  const text = peersMarkdown(resultsOf(comparison));
  t.match(text, /\| ask \| tiny \| 0 of 4 \| [\d.]+ \/ [\d.]+ \| /, 'a row of a load');
  t.match(text, 'Skipped: missing: pip: not found', 'the report names what was skipped');
  t.notMatch(text, /NaN|undefined|Infinity/, 'the report has no missing number');
});

t.test('a comparison shows what a peer does wrong', async (t) => {
  const upstream = await startUpstream();
  t.teardown(() => upstream.close());
  // Reads every answer to its end, whether or not its reader is there, and alters those of a load with four streams.
  let growing = 0;
  const url = await listen(t, (request, response) => {
    const outgoing = get(upstream.url + request.url, { agent: false }, (answer) => {
      let isHurt = request.url?.includes('bench-10-') && ++growing > 2;
      response.writeHead(200, answer.headers);
      answer.setEncoding('utf8').on('data', (text: string) => {
        response.write(isHurt ? text.replace('Hello', 'Hallo') : text);
        isHurt = false;
      });
      answer.on('end', () => response.end()).on('error', () => response.destroy());
    });
    outgoing.on('error', () => response.destroy());
  });
  const loads = { ...TINY_LOADS, leaving: { readers: 1, tokens: 40 } };
  const comparison = await comparePeers(
    [peerAt('deaf', url)],
    upstream,
    () => loads,
    () => {},
  );
  const [figures] = comparison.peers;
  t.equal(figures?.capacity.streams, 2, 'a core carries the last number without a failure');
  t.match(figures?.capacity.limit, /differs at character 0 at 4/, 'the failure of the next one');
  const late = await comparePeers(
    [peerAt('late', upstream.url, 'chat')],
    upstream,
    () => ({ ...loads, leaving: { readers: 0, tokens: 0 }, maxDelayMs: -1 }),
    () => {},
  );
  t.match(late.peers[0]?.capacity, { streams: 0, limit: /^delay p99 \d+ ms at 2$/ }, 'tokens that come too late');
  t.match(peersMarkdown(resultsOf(comparison)), /\| never \|$/m, 'the answer without a reader was generated');
});

t.test('a soak notices wrong answers, leftovers and slopes', async (t) => {
  const upstream = await startUpstream();
  t.teardown(() => upstream.close());
  const { url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_GRACE_MS: '0' }) });
  const options = { streams: 10, durationMs: 1_200, sampleMs: 100, settleMs: 10_000 };
  const result = await runSoak(systemAt(url), upstream, options);
  t.same(findFaults(result), [], 'a short soak has no fault');
  t.equal(result.complete + result.left + result.cut, result.questions, 'every question is counted');
  t.equal(result.samples.length, 12);

  const altered = await proxy(t, url, (text) => text.replace('"content":" world"', '"content":" wurld"'));
  const wrong = await runSoak(systemAt(altered), upstream, { ...options, durationMs: 300, settleMs: 0 });
  t.match(findFaults(wrong).join(), /wrong answers: .*differs/, 'an altered text');

  const flat = Array.from({ length: 20 }, (_, i) => 50e6 + (i % 3) * 1e6);
  t.ok(Math.abs(trend(flat).growth) < 1e6, 'noise has no slope');
  t.equal(Math.round(trend([1, 2, 3, 4]).growth), 3, 'the growth of a line');
  const sampleAt = (heapBytes: number, descriptors: number) => ({ ...result.samples[0], heapBytes, descriptors });
  const faultsOf = (change: object) => findFaults({ ...result, ...change } as typeof result).join();
  t.equal(faultsOf({ samples: flat.map((heap) => sampleAt(heap, 200)) }), '', 'no slope');
  t.match(faultsOf({ samples: flat.map((heap, i) => sampleAt(heap + i * 1e6, 200)) }), /heapBytes grow/, 'heap');
  t.match(faultsOf({ samples: flat.map((heap, i) => sampleAt(heap, 200 + i * 4)) }), /descriptors grow/, 'descriptors');
  const after = { ...result.after, generations: 1, readers: Number.NaN, keys: 2, descriptors: 99 };
  const faults = faultsOf({ after, before: { ...result.before, descriptors: 30 }, cut: 0 });
  for (const fault of ['generations at', 'readers at', 'keys at', 'descriptors at', 'no answer was cut'])
    t.match(faults, fault);
});

t.test('the report has a row for every load and no missing number', async (t) => {
  const figures = {
    streams: 10,
    refused: 2,
    tokensPerSecond: 1_000,
    cpuMicrosPerToken: 50,
    firstTokenMs: { p50: 1, p99: 2 },
    firstTokenAddedMs: { p50: 0.5, p99: 1 },
    delayMs: { p50: 3, p99: 4 },
    rssPerStreamKb: 60,
    waitedShare: 0.1,
  };
  const growth = [figures, { ...figures, streams: 100, tokensPerSecond: 10_000 }];
  const text = markdown({
    date: '2026-01-01',
    node: 'v26',
    cores: 2,
    cpu: 'c',
    loads: { paced: { proxy: figures, sluice: figures } },
    requestsPerSecond: { proxy: 1, sluice: 2 },
    cancelMs: { p50: 1, p99: 2 },
    heldKb: { proxy: 3, sluice: Number.NaN },
    growth,
  });
  t.match(text, '| paced | sluice | 2 of 10 | 1000 | 50.0 | 1.0 / 2.0 | 3.0 / 4.0 |', 'the row of a load');
  t.match(text, '| 100 | 2 | 50 | 50.0 | 60 | 2.0 |', 'the row of a number of streams');
  t.notMatch(text, /NaN|undefined/, 'the report has no missing number');
  const svg = plot(growth);
  t.match(svg, /^<svg [^>]+>[\s\S]*<\/svg>\n$/, 'the plot is an SVG');
  t.notMatch(svg, /NaN|undefined/, 'the plot has no missing number');
});
