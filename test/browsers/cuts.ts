import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { codeBlock } from '../code-blocks.ts';
import { bellaAt, serve, until } from '../helper.ts';
import { tcpProxy } from '../tcp-proxy.ts';
import { DONE, type Script, STOP, sse, startUpstream, text } from '../upstream.ts';
import { type CutCase, cutCases } from './cut-cases.ts';
import type { TestBrowser } from './launch.ts';

/**
 * Pages of a real browser read answers through connections that are cut. Each case has a frame of its own in one page:
 * its EventSource gets the exact text, from one provider call, and the page has no error.
 */

const SEED = Number(process.env.SEED ?? Date.now() % 100_000);

const DELTAS = ['你好 ', 'data: x\n\nid: 7\r', '🚀👩‍🚀 \u2028 ', 'L'.repeat(12_000), ' “quoted” \\ end'];
const ANSWER = DELTAS.join('');

/** Ports in front of the service. A browser opens six connections to one origin. */
const PROXIES = 8;

/** Report of a frame. */
interface Report {
  readonly question: string;
  readonly text: string;
  readonly starts: number;
  readonly errors: readonly string[];
}

const answerSlowly: Script = async ({ response }) => {
  sse(response);
  for (const delta of DELTAS) {
    response.write(text(delta));
    await sleep(10); // So that each delta is an event of its own.
  }
  response.end(STOP + DONE);
};

/** Script of every frame: reports to the test, and tells the page to go on with the next frame. */
const reporting = (reportTo: string) => `
const errors = [];
addEventListener('error', ({ message }) => errors.push(message));
addEventListener('unhandledrejection', ({ reason }) => errors.push(String(reason)));
async function report(received) {
  await fetch('${reportTo}', { method: 'POST', mode: 'no-cors', body: JSON.stringify({ ...received, errors }) });
  parent.postMessage('done', '*');
}`;

/** A page that has only \`onmessage\`, closes at the end, and does not even empty its text at \`start\`. */
const plainPage = (base: string, question: string, reportTo: string) => `<!doctype html><script>${reporting(reportTo)}
const received = { question: ${JSON.stringify(question)}, text: '', starts: 0 };
const query = new URLSearchParams({ question: received.question, key: crypto.randomUUID?.() ?? String(Math.random()) });
const source = new EventSource('${base}/ask/stream?' + query);
source.onmessage = ({ data }) => {
  const event = JSON.parse(data);
  if (event.type === 'start') received.starts += 1;
  if (event.type === 'delta') received.text += event.content;
  if (event.type !== 'end' && event.type !== 'error') return;
  source.close();
  if (event.answer !== received.text) errors.push('the answer of ' + event.type + ' differs from the text');
  report(received);
};
source.onerror = () => {
  if (source.readyState === EventSource.CLOSED) errors.push('CLOSED'), report(received);
};
</script>`;

/** The page of the README, which opens again where a browser gives up. */
function readmePage(base: string, question: string, reportTo: string): string {
  const page = codeBlock(readFileSync('README.md', 'utf8'), 'html', 'EventSource')
    .replace('Why is the sky blue?', question)
    .replace("'/ask/stream?'", `'${base}/ask/stream?'`);
  return `<!doctype html><meta charset="utf-8"><script>${reporting(reportTo)}
globalThis.EventSource = class extends EventSource {
  close() {
    super.close();
    const { textContent } = document.getElementById('answer');
    report({ question: ${JSON.stringify(question)}, text: textContent, starts: 1 });
  }
};
</script>${page}`;
}

/** The page that opens a frame for each case, some at a time: WebKit has 17 connections in all. */
const topPage = (frames: readonly string[], atOnce: number) => `<!doctype html><title>cuts</title><script>
const waiting = ${JSON.stringify(frames)};
function openNext(frame) {
  frame?.remove();
  if (waiting.length === 0) return;
  const next = document.createElement('iframe');
  next.src = waiting.shift();
  document.body.append(next);
}
addEventListener('message', ({ source }) => {
  openNext([...document.querySelectorAll('iframe')].find((frame) => frame.contentWindow === source));
});
addEventListener('DOMContentLoaded', () => { for (let i = 0; i < ${atOnce}; i++) openNext(); });
</script><body>`;

/** Runs all cases in one page of a browser. */
export async function assertCutsAreExact(t: Test, browser: TestBrowser, atOnce: number): Promise<void> {
  const cases = cutCases(SEED);
  t.comment(`${cases.length} cases, SEED=${SEED}`);
  const reports = new Map<string, Report>();
  let top = '';
  let frameOf = (_: URL): string => '';
  const harness = createServer(async (request, response) => {
    response.setHeader('content-type', 'text/html; charset=utf-8');
    if (request.method === 'GET') {
      const url = new URL(request.url ?? '/', 'http://harness');
      return void response.end(url.pathname === '/frame' ? frameOf(url) : top);
    }
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const report = JSON.parse(Buffer.concat(chunks).toString()) as Report;
    reports.set(report.question, report);
    response.end();
  });
  harness.listen(0, '127.0.0.1');
  await once(harness, 'listening');
  t.teardown(() => {
    harness.closeAllConnections();
    harness.close();
  });
  const harnessUrl = `http://127.0.0.1:${(harness.address() as AddressInfo).port}`;

  const upstream = await startUpstream(t, answerSlowly);
  const { url: service } = await serve(t, { env: bellaAt(upstream.url, { CORS_ORIGINS: harnessUrl }) });
  const questions = new Map(cases.map((one, i) => [`case-${i}`, { ...one, connections: 0 }]));
  const requests: string[] = [];
  const bases: string[] = [];
  frameOf = (url) => {
    const question = url.searchParams.get('question') ?? '';
    const base = url.searchParams.get('base') ?? '';
    const page = questions.get(question)?.isBeforeBody ? readmePage : plainPage;
    return page(base, question, `${harnessUrl}/report`);
  };
  const cutOf = ({ url }: { readonly url: URL }) => {
    const one = questions.get(url.searchParams.get('question') ?? '');
    requests.push(`${url.pathname}${url.search}`);
    return one?.cuts[one.connections++];
  };
  const pageOf = (url: URL) => (url.pathname === '/frame' ? frameOf(url) : undefined);
  for (let i = 0; i < PROXIES; i++) bases.push((await tcpProxy(t, service, { pageOf, cutOf })).url);
  const frames = [...questions].map(([question, { isCrossOrigin }], i) => {
    const base = bases[i % PROXIES] as string;
    return `${isCrossOrigin ? harnessUrl : base}/frame?${new URLSearchParams({ question, base })}`;
  });
  top = topPage(frames, atOnce);

  await browser.open(t, harnessUrl);
  await until(() => reports.size === cases.length, 'every frame has reported', 80_000).catch(() => {});

  const calls = new Map<string, number>();
  for (const { body } of upstream.calls) {
    const question = JSON.parse(body).messages.at(-1).content as string;
    calls.set(question, (calls.get(question) ?? 0) + 1);
  }
  const wrong: string[] = [];
  for (const [question, { name, connections, cuts, isBeforeBody }] of questions) {
    const report = reports.get(question);
    const faults = [
      ...(report ? report.errors : ['no report']),
      ...(report && report.text !== ANSWER ? [`${report.text.length} of ${ANSWER.length} characters`] : []),
      ...(report && !isBeforeBody && report.starts !== 1 ? [`${report.starts} start events`] : []),
      ...(calls.get(question) === 1 ? [] : [`${calls.get(question)} provider calls`]),
      ...(connections > 1 ? [] : [`${connections} connections for ${cuts.length} cuts`]),
    ];
    if (faults.length > 0) wrong.push(`${name} (${question}): ${faults.join('; ')}`);
  }
  t.same(wrong, [], 'each text is exact, from one provider call, without an error of the page');
}

export type { CutCase };
