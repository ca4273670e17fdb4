import { setTimeout as sleep } from 'node:timers/promises';
import type { Page } from 'playwright-core';
import type { Test } from 'tap';
import { type Cluster, startCluster } from '../cluster.ts';
import { until } from '../helper.ts';
import type { ServerProcess } from '../process.ts';
import { type Cut, type TcpProxy, tcpProxy } from '../tcp-proxy.ts';
import { type Call, chunk, DONE, STOP, sse, text } from '../upstream.ts';

/** Helpers of the browser tests of AG-UI clients: a cluster, its answers, and cuts. */

/** Last bytes of a chunked response. */
const LAST_CHUNK = '0\r\n\r\n';

const DELTAS = Array.from({ length: 12 }, (_, i) => `${i}你🚀 "q"\n`);
/** The answer to questions that begin with `cut`. */
export const ANSWER = DELTAS.join('');

/** Replaces the URL of an example, so that one bundle serves pages with different proxies. */
export const withApi = (source: string): string => source.replace("'/agui'", "globalThis.api + '/agui'");

/** Returns a page whose script, `/app.js`, sends its requests to `api`. */
export const pageFor = (api: string, body: string): string =>
  `<!doctype html><meta charset="utf-8">${body}<script>globalThis.api = ${JSON.stringify(api)}</script>
<script type="module" src="/app.js"></script>`;

/** Returns the text of the last user message. */
const questionOf = ({ body }: Call): string =>
  (JSON.parse(body) as { messages: { role: string; content: string }[] }).messages.findLast(
    ({ role }) => role === 'user',
  )?.content ?? '';

/** Starts a cluster. Answers to `cut …` are complete; others begin with `Because ` and wait for the test. */
export function startAguiCluster(t: Test): Promise<Cluster> {
  return startCluster(
    t,
    async (call) => {
      const { response } = call;
      if (!questionOf(call).startsWith('cut')) {
        sse(response).write(text('Because '));
        return;
      }
      sse(response).write(chunk({ reasoning_content: 'Let me think. ' }));
      for (const delta of DELTAS) {
        response.write(text(delta));
        await sleep(2);
      }
      response.end(STOP + DONE);
    },
    { CORS_ORIGINS: '*' },
  );
}

export const callsOf = ({ upstream }: Cluster, question: string) =>
  upstream.calls.filter((call) => questionOf(call) === question);

/** Waits for the provider call of a question. */
export async function callOf(cluster: Cluster, question: string): Promise<Call> {
  await until(() => callsOf(cluster, question).length > 0, `the provider is asked: ${question}`);
  return callsOf(cluster, question)[0] as Call;
}

/** Finishes an answer that waits. */
export async function finish(cluster: Cluster, question: string): Promise<void> {
  (await callOf(cluster, question)).response.end(text('of light.') + STOP + DONE);
}

/** Returns a metric of one replica. */
async function metricOf(url: string, name: string): Promise<number> {
  const lines = (await (await fetch(`${url}/metrics`)).text()).split('\n');
  return Number(lines.find((line) => line.startsWith(`${name} `))?.split(' ')[1]);
}

/**
 * Cuts the connection of a page until a replica serves it that does not produce its answer, and returns that replica.
 * No other page may read.
 */
export async function moveToOtherReplica(cluster: Cluster, proxy: TcpProxy): Promise<ServerProcess> {
  let serving = -1;
  const findServing = async () => {
    const open = await Promise.all(cluster.replicas.map(({ url }) => metricOf(url, 'sluice_responses_open')));
    serving = open.findIndex((count) => count > 0);
    return serving;
  };
  await until(async () => (await findServing()) >= 0, 'a replica serves the page');
  const producer = serving;
  while (serving === producer) {
    proxy.cut();
    await until(async () => (await findServing()) < 0, 'the connection is cut');
    await until(async () => (await findServing()) >= 0, 'a replica serves the page again');
  }
  return cluster.replicas[serving] as ServerProcess;
}

/** Returns numbers of bytes that spread over a response, from a seed, so that each run of CI cuts elsewhere. */
export function cutPlaces(length: number, from: number, count: number, seed: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    const offset = (seed * 2_654_435_761) % 997;
    return from + Math.floor(((i + offset / 997) * (length - from)) / count);
  });
}

/** Returns the bytes of a response to a question, its head included, and the end of its first event. */
export async function measureResponse(t: Test, cluster: Cluster): Promise<{ length: number; firstEvent: number }> {
  const { connect } = await import('node:net');
  const { hostname, port } = new URL(cluster.url);
  const body = JSON.stringify({
    threadId: 't',
    runId: 'measured',
    messages: [{ id: 'u', role: 'user', content: 'cut -' }],
  });
  const socket = connect(Number(port), hostname);
  t.teardown(() => socket.destroy());
  socket.write(
    `POST /agui HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
  let received = Buffer.alloc(0);
  for await (const bytes of socket) received = Buffer.concat([received, bytes as Buffer]);
  return { length: received.length, firstEvent: received.indexOf('\n\n') + 2 };
}

/**
 * Starts a proxy for each place, some of which cut twice. Of two more, the last event gets through. Every second one cuts
 * by RST if `resets`: the client then may lose what it has received.
 */
export function proxiesFor(t: Test, cluster: Cluster, places: readonly number[], resets: boolean): Promise<TcpProxy[]> {
  const start = (at: (events: string) => number, times: number, isReset: boolean) => {
    // Other responses than events, such as that to a stop, are not cut.
    const place = (response: string) => (/^content-type: text\/event-stream/im.test(response) ? at(response) : -1);
    const cut: Cut = { at: place, by: isReset ? 'RST' : 'FIN' };
    return tcpProxy(t, cluster.url, { cutOf: (_, proxy) => (proxy.cuts < times ? cut : undefined) });
  };
  const beforeEnd = (events: string) => (events.endsWith(LAST_CHUNK) ? events.length - LAST_CHUNK.length : -1);
  return Promise.all([
    ...[false, resets].map((isReset) => start(beforeEnd, 2, isReset)),
    ...places.map((place, i) => {
      const at = (events: string) => (events.length > place ? place : -1);
      return start(at, i % 3 === 2 ? 2 : 1, resets && i % 2 === 1);
    }),
  ]);
}

/** Freezes a page, as a browser does with a hidden tab, and wakes it after `meanwhile`. */
export async function whileFrozen(page: Page, meanwhile: () => unknown): Promise<void> {
  const session = await page.context().newCDPSession(page);
  await session.send('Page.setWebLifecycleState', { state: 'frozen' });
  await meanwhile();
  await session.send('Page.setWebLifecycleState', { state: 'active' });
}
