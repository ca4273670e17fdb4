import { createServer, get } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { createChecker, deltaOf } from '../bench/client.ts';
import { expectedAnswer, parseQuestion, questionText } from '../bench/question.ts';
import { markdown, plot } from '../bench/report.ts';
import { measureCancellation, quantiles, runLoad } from '../bench/scenarios.ts';
import type { SystemUnderTest } from '../bench/system-under-test.ts';
import { startUpstream } from '../bench/upstream.ts';
import { bellaAt, serve } from './helper.ts';

/** A bench that cannot fail measures nothing. */

const LOAD = { streams: 4, tokens: 50, gapMs: 1, rampMs: 10 };

const systemAt = (url: string): SystemUnderTest => ({
  name: 'test',
  url,
  cpuSeconds: () => 0,
  rssBytes: () => 0,
  stop: async () => {},
});

/** A proxy that may change what passes through it. */
async function proxy(t: Test, upstream: string, change: (text: string) => string): Promise<string> {
  const server = createServer((request, response) => {
    get(upstream + request.url, (answer) => {
      response.writeHead(200, answer.headers);
      answer
        .setEncoding('utf8')
        .on('data', (text: string) => response.write(change(text)))
        .on('end', () => response.end());
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

t.test('the checker', async (t) => {
  const answer = expectedAnswer({ tokens: 20 });
  const check = (...pieces: string[]) => {
    const tokens: number[] = [];
    const checker = createChecker({ tokens: 20 }, (index) => tokens.push(index));
    for (const piece of pieces) checker.add(piece);
    checker.end();
    return tokens.length;
  };
  t.equal(check(answer), 20);
  t.equal(check(...answer), 20, 'cut anywhere');
  t.throws(() => check(answer.slice(1)), 'one too few at the front');
  t.throws(() => check(answer.slice(0, -1)), 'one too few at the end');
  t.throws(() => check(`${answer}x`), 'one too many');
  t.throws(() => check(answer.replace('stream', 'strean')), 'one altered');
  t.equal(deltaOf('{"type":"delta","content":"a"}'), 'a');
  t.equal(deltaOf('{"choices":[{"delta":{"content":"a"}}]}'), 'a');
  t.throws(() => deltaOf('{"type":"error","code":"x"}'));
  const question = { id: 'abc1', tokens: 3, gapMs: 20 };
  t.same(parseQuestion(`/ask/stream?question=${questionText(question)}`), question);
  t.same(quantiles([5, 1, 4, 2, 3]), { p50: 3, p99: 5 });
});

t.test('loads against the service and through a proxy; one altered byte fails', async (t) => {
  const upstream = await startUpstream();
  t.teardown(() => upstream.close());
  const { url } = await serve(t, { env: bellaAt(upstream.url, { STREAM_GRACE_MS: '0' }) });
  for (const base of [url, await proxy(t, upstream.url, (text) => text)]) {
    const figures = await runLoad(systemAt(base), upstream, LOAD);
    t.equal(figures.streams, 4);
    t.ok(figures.tokensPerSecond > 0);
    t.ok(figures.firstTokenMs.p50 > 0 && Number.isFinite(figures.firstTokenMs.p99));
    t.ok(figures.delayMs.p50 >= 0 && Number.isFinite(figures.delayMs.p99));
  }
  const cancelled = await measureCancellation(systemAt(url), upstream, 3);
  t.ok(cancelled.p99 > 0 && Number.isFinite(cancelled.p99));
  let left = 3;
  const altered = await proxy(t, upstream.url, (text) =>
    --left === 0 ? text.replace(/"content":"./, '"content":"#') : text,
  );
  await t.rejects(runLoad(systemAt(altered), upstream, LOAD), /differs/);
  const cut = await proxy(t, upstream.url, (text) => text.replaceAll(/data: .*token.*\n\n/g, ''));
  await t.rejects(runLoad(systemAt(cut), upstream, LOAD), /differs|characters/);
});

t.test('the report', async (t) => {
  const f = {
    streams: 10,
    tokensPerSecond: 1_000,
    cpuMicrosPerToken: 50,
    firstTokenMs: { p50: 1, p99: 2 },
    delayMs: { p50: 3, p99: 4 },
    rssPerStreamKb: 60,
  };
  const growth = [f, { ...f, streams: 100, tokensPerSecond: 10_000 }];
  const text = markdown({
    date: '2026-01-01',
    node: 'v26',
    cores: 2,
    cpu: 'c',
    loads: { paced: { proxy: f, sluice: f } },
    requestsPerSecond: { proxy: 1, sluice: 2 },
    cancelMs: { p50: 1, p99: 2 },
    heldKb: { proxy: 3, sluice: Number.NaN },
    growth,
  });
  t.match(text, '| paced | sluice | 1000 | 50.0 | 1.0 / 2.0 | 3.0 / 4.0 |');
  t.match(text, '| 100 | 50 | 50.0 | 60 | 2.0 |');
  t.notMatch(text, /NaN|undefined/);
  const svg = plot(growth);
  t.match(svg, /^<svg [^>]+>[\s\S]*<\/svg>\n$/);
  t.notMatch(svg, /NaN|undefined/);
});
