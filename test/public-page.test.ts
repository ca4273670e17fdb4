/// <reference lib="dom" />
import { readFileSync } from 'node:fs';
import type { Browser, Page } from 'playwright-core';
import t, { type Test } from 'tap';
import { launch, noBrowser } from './browser.ts';
import { codeBlock } from './code-blocks.ts';
import { bearer, bellaAt, serve, sha256, writeConfig } from './helper.ts';
import { compileReact, REACT_PAGE } from './react-page.ts';
import { noRedis } from './redis.ts';
import { startReplicas } from './replicas.ts';
import { startSite } from './site.ts';
import { type Call, chunk, DONE, STOP, sse, startUpstream, text, type Upstream } from './upstream.ts';

/** Two visitors of a public page in a real browser: one sends too much, the other must not notice. */

/** The key allows less than one visitor sends: what a visitor's limit refuses must cost the key nothing. */
const CONFIG = `
keys:
  - name: web
    sha256: "${sha256('sk-web')}"
    requestsPerMinute: 75
    visitors: { requestsPerMinute: 20, maxConcurrent: 3 }
`;

const lastOf = ({ body }: Call): string => JSON.parse(body).messages.at(-1).content;

/** Answers with the question and the number of messages. An answer to an endless question is ended by the test. */
function answer(call: Call): void {
  const { response } = call;
  const question = lastOf(call);
  sse(response).write(text(`${question}: `));
  if (question.startsWith('endless')) return;
  response.write(text(`${JSON.parse(call.body).messages.length} 你好🚀`));
  response.end(chunk({}, 'stop', { usage: { prompt_tokens: 3, completion_tokens: 3 } }) + DONE);
}

/** The page of both visitors: a conversation with `useChat`, and functions that a test calls. */
const APP = `
import { StrictMode } from 'react';
import { DefaultChatTransport } from 'ai';
import { useChat } from '@ai-sdk/react';

const visitor = location.hash.slice(1);
globalThis.ticket = async () => (await fetch('/ticket', { headers: { visitor } })).text();

${codeBlock(readFileSync('docs/sdks.md', 'utf8'), 'jsx', 'await ticket()')}

function App() {
  const chat = useChat({ id: 'chat-of-' + visitor, resume: true, transport });
  globalThis.chat = chat;
  const texts = chat.messages.map(({ parts }) => parts.map(({ text = '' }) => text).join(''));
  return <pre>{chat.error ? 'error: ' + chat.error.message : chat.status + ' ' + JSON.stringify(texts)}</pre>;
}
ReactDOM.createRoot(document.getElementById('root')).render(<StrictMode><App /></StrictMode>);

/** Resolves with all events of an EventSource. */
globalThis.read = (url) =>
  new Promise((resolve, reject) => {
    const events = [];
    const source = new EventSource(url);
    source.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      events.push(event);
      if (event.type !== 'end' && event.type !== 'error') return;
      source.close();
      resolve(events);
    };
    source.onerror = () => source.readyState === EventSource.CLOSED && reject(new Error('refused: ' + url));
  });
globalThis.ask = async (question) =>
  read('/ask/stream?' + new URLSearchParams({ question, key: crypto.randomUUID(), ticket: await ticket() }));

/** Asks until \`stopped\`, by EventSource and by fetch in turns. */
globalThis.hammer = async () => {
  globalThis.refusals = { events: [], responses: [] };
  globalThis.sent = 0;
  const one = await ticket();
  const worker = async (name) => {
    for (let i = 0; !globalThis.stopped; i++) {
      sent += 1;
      const query = new URLSearchParams({ question: name + i, ticket: one });
      if (i % 2 === 0) {
        const last = (await read('/ask/stream?' + query)).at(-1);
        if (last.type === 'error') refusals.events.push({ code: last.code, retryAfter: last.retryAfter });
      } else {
        const response = await fetch('/ask/stream?' + query);
        await response.text();
        if (!response.ok) refusals.responses.push({ status: response.status, retryAfter: Number(response.headers.get('retry-after')) });
      }
    }
  };
  await Promise.all(['a', 'b', 'c', 'd', 'e'].map(worker));
};
`;

interface StreamEvent {
  readonly type: string;
  readonly code?: string;
  readonly url?: string;
  readonly stream?: string;
  readonly answer?: string;
}

interface PageGlobals {
  ticket(): Promise<string>;
  ask(question: string): Promise<StreamEvent[]>;
  read(url: string): Promise<StreamEvent[]>;
  hammer(): Promise<void>;
  chat: { sendMessage(message: { text: string }): void; messages: { metadata?: { stream: string } }[] };
  refusals: { events: unknown[]; responses: { status: number; retryAfter: number }[] };
  sent: number;
  stopped: boolean;
  hammering: Promise<void>;
}

/** Opens the page of a visitor, in a browser context of its own, on a site in front of a replica. */
async function visit(t: Test, browser: Browser, replica: string, visitor: string): Promise<Page> {
  const site = await startSite(t, replica, {
    '/page': REACT_PAGE,
    '/app.js': compileReact(APP),
    '/ticket': async ({ headers: { visitor } }, response) => {
      const minted = await fetch(`${replica}/tickets`, {
        method: 'POST',
        headers: { ...bearer('sk-web'), 'content-type': 'application/json' },
        body: JSON.stringify({ visitor, questions: 1_000 }),
      });
      response.writeHead(minted.status).end(((await minted.json()) as { ticket: string }).ticket);
    },
  });
  const page = await browser.newPage();
  page.on('pageerror', (error) => t.fail(`the page has an error: ${error}`));
  await page.goto(`${site.url}/page#${visitor}`);
  await page.waitForFunction(() => (globalThis as unknown as PageGlobals).chat !== undefined);
  return page;
}

const waitForChat = (page: Page, texts: string[], status = 'ready') =>
  page.waitForFunction(
    (expected) => {
      const shown = document.querySelector('pre')?.textContent ?? '';
      if (shown.startsWith('error')) throw new Error(shown);
      return shown === expected;
    },
    `${status} ${JSON.stringify(texts)}`,
    { timeout: 20_000 },
  );

const say = (page: Page, text: string) =>
  page.evaluate((text) => void (globalThis as unknown as PageGlobals).chat.sendMessage({ text }), text);

/** Tries to read and to stop streams of another visitor with tickets of this one. Returns what the service answers. */
function intrude(
  page: Page,
  target: { stream: string; chat: string; ownUrl: string },
): Promise<Record<string, unknown>> {
  return page.evaluate(async ({ stream, chat, ownUrl }) => {
    const { ticket, read } = globalThis as unknown as PageGlobals;
    const path = `/streams/${stream}`;
    const own = new URL(ownUrl, location.href).search;
    const asking = `?ticket=${await ticket()}`;
    const status = async (url: string, method = 'GET') => (await fetch(url, { method })).status;
    return {
      read: await status(path + asking),
      readByOwnUrl: await status(path + own),
      readWithout: await status(path),
      resume: (await read(`/ask/stream${asking}&question=x&lastEventId=${stream}.0`))[0]?.code,
      resumeByOwnUrl: await status(`${ownUrl}&lastEventId=${stream}.0`),
      chat: await status(`/ui/chat/${chat}/stream${asking}`),
      remove: await status(path + asking, 'DELETE'),
      removeByOwnUrl: await status(path + own, 'DELETE'),
      stop: await status(`${path}/stop${asking}`, 'POST'),
      stopByOwnUrl: await status(`${path}/stop${own}`, 'POST'),
    };
  }, target);
}

const REFUSED = {
  read: 401,
  readByOwnUrl: 401,
  readWithout: 401,
  resume: 'stream_unknown',
  resumeByOwnUrl: 400,
  chat: 204,
  remove: 401,
  removeByOwnUrl: 401,
  stop: 401,
  stopByOwnUrl: 401,
};

/** Starts an endless question, and returns the URL that reads its stream. */
async function startEndless(page: Page): Promise<string> {
  return page.evaluate(async () => {
    const { ticket } = globalThis as unknown as PageGlobals;
    const response = await fetch('/streams', {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${await ticket()}` },
      body: JSON.stringify({ question: 'endless' }),
    });
    return (await response.json()).url;
  });
}

async function check(t: Test, upstream: Upstream, replicas: [string, string]): Promise<void> {
  const browser = await launch(t);
  const [noisy, quiet] = await Promise.all([
    visit(t, browser, replicas[0], 'noisy'),
    visit(t, browser, replicas[1], 'quiet'),
  ]);

  await say(quiet, 'endless chat');
  await waitForChat(quiet, ['endless chat', 'endless chat: '], 'streaming');
  const urls = { noisy: await startEndless(noisy), quiet: await startEndless(quiet) };
  const streamOf = (url: string) => new URL(url, replicas[0]).pathname.split('/').at(-1) as string;
  for (const [page, own, other, chat] of [
    [noisy, urls.noisy, urls.quiet, 'chat-of-quiet'],
    [quiet, urls.quiet, urls.noisy, 'chat-of-noisy'],
  ] as const) {
    t.same(
      await intrude(page, { stream: streamOf(other), chat, ownUrl: own }),
      REFUSED,
      'streams of others are unknown',
    );
  }
  const chatStream = await quiet.evaluate(
    () => (globalThis as unknown as PageGlobals).chat.messages.at(-1)?.metadata?.stream as string,
  );
  t.same(
    await intrude(noisy, { stream: chatStream, chat: 'chat-of-quiet', ownUrl: urls.noisy }),
    REFUSED,
    'a conversation of others is unknown',
  );

  await quiet.reload();
  await waitForChat(quiet, ['endless chat: '], 'streaming');
  t.pass('useChat finds its own running answer after a reload, with a new ticket');
  upstream.calls.find((call) => lastOf(call) === 'endless chat')?.response.end(text('ended') + STOP + DONE);
  await waitForChat(quiet, ['endless chat: ended']);

  await noisy.evaluate(() => {
    const globals = globalThis as unknown as PageGlobals;
    globals.hammering = globals.hammer();
  });
  const isRefused = () => {
    const { events, responses } = (globalThis as unknown as PageGlobals).refusals ?? { events: [], responses: [] };
    return events.length > 2 && responses.length > 2;
  };
  await noisy.waitForFunction(isRefused);
  const texts = ['endless chat: ended'];
  for (const turn of [1, 2, 3]) {
    await say(quiet, `turn ${turn}`);
    texts.push(`turn ${turn}`, `turn ${turn}: ${2 * turn} 你好🚀`);
    await waitForChat(quiet, texts);
    const events = await quiet.evaluate(
      (question) => (globalThis as unknown as PageGlobals).ask(question),
      `plain ${turn}`,
    );
    t.match(events.at(-1), { type: 'end', answer: `plain ${turn}: 1 你好🚀` }, `turn ${turn} with an EventSource`);
  }
  await noisy.waitForFunction(() => (globalThis as unknown as PageGlobals).sent > 80);
  const { refusals, sent } = await noisy.evaluate(async () => {
    const globals = globalThis as unknown as PageGlobals;
    globals.stopped = true;
    await globals.hammering;
    const { refusals, sent } = globals;
    return { refusals, sent };
  });
  t.ok(sent > 80, `one visitor has sent more than its key may: ${sent}`);
  for (const refusal of refusals.responses)
    t.ok(refusal.status === 429 && refusal.retryAfter > 0, JSON.stringify(refusal));
  for (const refusal of refusals.events) t.match(refusal, { code: 'rate_limited', retryAfter: /^[1-9]/ });
  t.ok(refusals.events.length + refusals.responses.length > sent / 2, 'most of them are refused');

  for (const call of upstream.calls) if (lastOf(call) === 'endless') call.response.end(text('ended') + STOP + DONE);
  for (const [page, url] of [
    [noisy, urls.noisy],
    [quiet, urls.quiet],
  ] as const) {
    const events = await page.evaluate((url) => (globalThis as unknown as PageGlobals).read(url), url);
    t.match(events.at(-1), { type: 'end', answer: 'endless: ended' }, 'the streams of both went on to their ends');
  }
}

t.test('a visitor who sends too much does not harm another one', { skip: noBrowser, timeout: 90_000 }, async (t) => {
  const upstream = await startUpstream(t, answer);
  const { url } = await serve(t, { env: bellaAt(upstream.url, { CONFIG_FILE: writeConfig(t, CONFIG) }) });
  await check(t, upstream, [url, url]);
});

t.test('the same on two replicas', { skip: noBrowser || noRedis, timeout: 90_000 }, async (t) => {
  const env = { CONFIG_FILE: writeConfig(t, CONFIG), TICKET_SECRET: 's'.repeat(32) };
  const { upstream, a, b } = await startReplicas(t, answer, env);
  await check(t, upstream, [a.url, b.url]);
});
