import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import type { Browser, Page } from 'playwright-core';
import t, { type Test } from 'tap';
import { launch, noBrowser } from '../browser.ts';
import { type Cluster, noCluster, startCluster } from '../cluster.ts';
import { codeBlock } from '../code-blocks.ts';
import { until } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { type TcpProxy, tcpProxy } from '../tcp-proxy.ts';
import { type Call, DONE, STOP, sse, text } from '../upstream.ts';
import { bundle, load, noClients } from './packages.ts';

/**
 * The example of `docs/clients/ai-sdk.md` in Chromium, with `useChat` of the AI SDK 6 and 7: connections that are cut after
 * any byte, frozen and hidden pages, reloads, killed replicas and Stop. And the SDKs 5, 6 and 7 as they read the stream.
 */

const skip = noClients || noCluster || noBrowser;
const RUNS = Number(process.env.RUNS ?? 8);
const EXAMPLE = codeBlock(readFileSync('docs/clients/ai-sdk.md', 'utf8'), 'jsx');

const deltas = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => `${from + i}🚀 "你" `);
const ANSWER = deltas(0, 40).join('');
/** Bytes of the head of a response, and of the body of an answer, roughly. */
const HEAD_BYTES = 700;
const BODY_BYTES = 3_600;
const OPENING_BYTES = HEAD_BYTES + 500;

/** Answers whose second half waits for a release, by a word of the question. */
const gates = new Map<string, () => void>();

async function answer({ body, response }: Call): Promise<void> {
  const word = /gate-[\w.]+/.exec(body)?.[0];
  sse(response);
  for (const delta of deltas(0, 20)) {
    response.write(text(delta));
    await sleep(1);
  }
  if (word !== undefined) await new Promise<void>((resolve) => gates.set(word, resolve));
  for (const delta of deltas(20, 40)) {
    response.write(text(delta));
    await sleep(1);
  }
  response.end(STOP + DONE);
}

async function release(gate: string): Promise<void> {
  await until(() => gates.has(gate), `the provider waits at ${gate}`);
  gates.get(gate)?.();
}

/** A proxy of one page. */
interface PageProxy extends TcpProxy {
  /** For the next responses: number of bytes after which the connection is cut, by RST if it is odd. */
  next: number[];
}

async function pageProxy(t: Test, target: string): Promise<PageProxy> {
  const next: number[] = [];
  const proxy = await tcpProxy(t, target, {
    cutOf({ url }) {
      const at = /^\/(ui|streams)\//.test(url.pathname) ? page.next.shift() : undefined;
      return at === undefined ? undefined : { at, by: at % 2 === 1 ? 'RST' : 'FIN' };
    },
  });
  const page = Object.assign(proxy, { next });
  return page;
}

/** Packages of the example, for each version of the SDK. */
const VERSIONS: Record<string, (code: string) => string> = {
  'ai 7': (code) => code,
  'ai 6': (code) => code.replace("from '@ai-sdk/react'", "from 'ai-sdk-react3'").replace("from 'ai'", "from 'ai6'"),
};

/** Pages: the example with each version, and with our own transport. */
const PAGES = Object.keys(VERSIONS).flatMap((version) => [
  { name: version, version, options: '', resumes: /^GET \/ui\/chat\/[\w-]{22}\/stream\?startIndex=\d+$/ },
  {
    name: `${version} with the transport of Sluice's client`,
    version,
    options: '&sluice',
    resumes: /^GET \/streams\/[\w-]{22}\?.*lastEventId=[\w-]{22}\./,
  },
]);

/** Shows the example. `?sluice` replaces its transport. `?continue` shows a page whose tool has run, and continues its message. */
const pageSource = (version: string) => `
const query = new URLSearchParams(location.search);
${(VERSIONS[version] as (code: string) => string)(EXAMPLE)
  .replace("const API = '/ui/chat';", 'const API = globalThis.API;')
  .replace('const transport = {', 'const transportOfExample = {')}
import { createRoot } from 'react-dom/client';

const { origin: url } = new URL(API);
const transport = query.has('sluice')
  ? (await import(url + '/client-ai.js')).sluiceTransport({ url })
  : transportOfExample;
// Its own stop ends the answer, so that of the example must not.
if (query.has('sluice')) navigator.sendBeacon = () => true;
const saved = JSON.parse(sessionStorage.getItem('saved') ?? '[]');
globalThis.seen = { messages: [], status: '' };
function onChange(messages, status) {
  globalThis.seen = { messages, status };
  if (status === 'ready') sessionStorage.setItem('saved', JSON.stringify(messages));
}
function ContinuedChat({ id, savedMessages }) {
  const chat = useChat({ id, messages: savedMessages, resume: true, transport });
  useEffect(() => {
    globalThis.seen = chat;
    globalThis.goOn = () => chat.sendMessage();
  });
  return null;
}
function DefaultChat({ id }) {
  const chat = useChat({
    id,
    transport: afterReload,
    onFinish: ({ isDisconnect }) => isDisconnect && chat.resumeStream(),
  });
  useEffect(() => {
    globalThis.seen = chat;
    globalThis.ask = (text) => chat.sendMessage({ text }, { body: { resumable: true } });
  });
  return null;
}
const Shown = query.has('continue') ? ContinuedChat : query.has('default') ? DefaultChat : Chat;
createRoot(document.getElementById('root')).render(<Shown id={query.get('id')} savedMessages={saved} onChange={onChange} />);
`;

interface Seen {
  readonly status: string;
  readonly messages: readonly { id: string; role: string; parts: readonly { type: string; text?: string }[] }[];
}

const seenOf = (page: Page) =>
  page.evaluate(() => {
    const { status, messages } = (globalThis as unknown as { seen?: Seen }).seen ?? { status: '', messages: [] };
    return { status, messages };
  });
const lastText = ({ messages }: Seen) =>
  messages.at(-1)?.role === 'assistant'
    ? messages
        .at(-1)
        ?.parts.map((part) => part.text ?? '')
        .join('')
    : undefined;

/** Waits until the page shows more than `length` characters of an answer. */
const untilSome = (page: Page, length = 20) =>
  page.waitForFunction((least) => {
    const last = (globalThis as unknown as { seen?: Seen }).seen?.messages.at(-1);
    return last?.role === 'assistant' && last.parts.map((part) => part.text ?? '').join('').length > least;
  }, length);

/** Waits until the page has `count` messages, the last complete, and is ready, or shows an error. Returns what it shows. */
async function untilComplete(page: Page, count: number): Promise<Seen> {
  await page.waitForFunction((least) => {
    const { status, messages } = (globalThis as unknown as { seen?: Seen }).seen ?? { status: '', messages: [] };
    return (
      status === 'error' || (status === 'ready' && messages.length >= least && messages.at(-1)?.role === 'assistant')
    );
  }, count);
  return seenOf(page);
}

/** Waits until the last message has a number of parts. */
const untilParts = (page: Page, count: number) =>
  page.waitForFunction(
    (wanted) => (globalThis as unknown as { seen?: Seen }).seen?.messages.at(-1)?.parts.length === wanted,
    count,
  );

async function ask(page: Page, question: string): Promise<void> {
  await page.fill('input', question);
  await page.click('button[type=submit]');
}

let pages: { url: string; origin: string };
let cluster: Cluster;
let browser: Browser;

const callsOf = (question: string) => cluster.upstream.calls.filter(({ body }) => body.includes(question)).length;

/** Opens the example in a tab of its own, behind a proxy of its own. */
async function openChat(t: Test, version: string, options = ''): Promise<{ page: Page; proxy: PageProxy }> {
  const proxy = await pageProxy(t, cluster.url);
  const context = await browser.newContext();
  t.teardown(() => context.close());
  const page = await context.newPage();
  await page.addInitScript(`globalThis.API = '${proxy.url}/ui/chat'`);
  await page.goto(`${pages.url}/${version.replace(' ', '')}?id=chat-${Math.random().toString(36).slice(2)}${options}`);
  await page.waitForFunction(() => (globalThis as unknown as { seen?: Seen }).seen?.status === 'ready');
  return { page, proxy };
}

t.test('the AI SDK in Chromium', { skip, timeout: 180_000 }, async (t) => {
  const scripts = Object.fromEntries(
    await Promise.all(
      Object.keys(VERSIONS).map(async (version) => [
        `/${version.replace(' ', '')}.js`,
        await bundle(pageSource(version)),
      ]),
    ),
  );
  const site = createServer(({ url = '' }, response) => {
    const [path = ''] = url.split('?');
    const script: string | undefined = scripts[path];
    response.setHeader('content-type', script ? 'text/javascript' : 'text/html; charset=utf-8');
    response.end(script ?? `<!doctype html><div id="root"></div><script type="module" src="${path}.js"></script>`);
  });
  site.listen(0, '127.0.0.1');
  await once(site, 'listening');
  t.teardown(() => {
    site.closeAllConnections();
    site.close();
  });
  const origin = `http://127.0.0.1:${(site.address() as AddressInfo).port}`;
  pages = { url: origin, origin };
  [cluster, browser] = await Promise.all([startCluster(t, answer, { CORS_ORIGINS: origin }), launch(t)]);

  t.test('cases that share the cluster', async (t) => {
    t.jobs = 4;
    for (const [n, { name, version, options, resumes }] of PAGES.entries()) {
      t.test(`${name}: connections that are cut after any byte`, async (t) => {
        const { page, proxy } = await openChat(t, version, options);
        let asked = 0;
        const cut = fc.integer({ min: 1, max: HEAD_BYTES + BODY_BYTES });
        await fc.assert(
          fc.asyncProperty(cut, fc.option(cut, { nil: undefined }), async (first, second) => {
            asked += 1;
            const question = `cut ${n} ${asked}.`;
            proxy.next = second === undefined ? [first] : [first, second];
            // It reads no more than the opening of the response to a question.
            if (options === '&sluice') proxy.next = [first % OPENING_BYTES, first, second ?? first];
            await ask(page, question);
            const seen = await untilComplete(page, 2 * asked);
            if (lastText(seen) !== ANSWER) throw new Error(`${seen.status} with ${lastText(seen)}`);
            if (seen.messages.length !== 2 * asked) throw new Error(`${seen.messages.length} messages`);
            if (callsOf(question) !== 1) throw new Error(`${callsOf(question)} calls`);
          }),
          {
            numRuns: RUNS,
            // Of these, all are within the answer.
            examples: [
              [1_500, undefined],
              [1_601, 1_400],
            ],
            endOnFailure: true,
            includeErrorInReport: true,
            ...(process.env.SEED && { seed: Number(process.env.SEED) }),
          },
        );
        t.ok(
          proxy.requests.some((request) => resumes.test(request)),
          'it has come back by itself',
        );
      });

      t.test(`${name}: a hidden and frozen page`, async (t) => {
        const gate = `gate-frozen${n}.`;
        const { page, proxy } = await openChat(t, version, options);
        await ask(page, gate);
        await untilSome(page);
        await setVisibility(page, 'hidden');
        const session = await page.context().newCDPSession(page);
        await session.send('Page.setWebLifecycleState', { state: 'frozen' });
        proxy.cut();
        await release(gate);
        await session.send('Page.setWebLifecycleState', { state: 'active' });
        await setVisibility(page, 'visible');
        const seen = await untilComplete(page, 2);
        t.equal(lastText(seen), ANSWER);
        t.equal(seen.messages.length, 2);
        t.equal(callsOf(gate), 1);
      });

      t.test(`${name}: a reload in the middle of an answer`, async (t) => {
        const gate = `gate-reload${n}.`;
        const { page } = await openChat(t, version, options);
        await ask(page, gate);
        await untilSome(page);
        const { messages } = await seenOf(page);
        await page.evaluate((saved) => sessionStorage.setItem('saved', saved), JSON.stringify(messages.slice(0, 1)));
        await page.reload();
        await untilSome(page);
        await release(gate);
        const seen = await untilComplete(page, 2);
        t.equal(lastText(seen), ANSWER);
        t.equal(seen.messages.length, 2);
        t.equal(callsOf(gate), 1);
      });

      t.test(`${name}: a reload after a tool has run`, async (t) => {
        const gate = `gate-tool${n}.`;
        const { page } = await openChat(t, version, `${options}&continue`);
        const saved = [
          { id: 'u1', role: 'user', parts: [{ type: 'text', text: gate }] },
          {
            id: 'a1',
            role: 'assistant',
            parts: [
              { type: 'step-start' },
              { type: 'text', text: 'Let me look. ' },
              { type: 'tool-weather', toolCallId: 'c1', state: 'output-available', input: { at: 1 }, output: 'cold' },
            ],
          },
        ];
        await page.evaluate((text) => sessionStorage.setItem('saved', text), JSON.stringify(saved));
        await page.reload();
        await page.waitForFunction(() => (globalThis as unknown as { seen?: Seen }).seen?.messages.length === 2);
        await page.evaluate(() => void (globalThis as unknown as { goOn(): void }).goOn());
        await untilParts(page, 5);
        await page.reload();
        await untilParts(page, 5);
        await release(gate);
        await untilSome(page, ANSWER.length);
        const { messages } = await seenOf(page);
        t.same(
          messages.map(({ id }) => id),
          ['u1', 'a1'],
        );
        t.equal(lastText({ status: '', messages }), `Let me look. ${ANSWER}`, 'each word once');
        t.match(messages[1]?.parts, [
          { type: 'step-start' },
          {},
          { type: 'tool-weather', state: 'output-available', input: { at: 1 }, output: 'cold' },
          { type: 'step-start' },
          {},
        ]);
        t.equal(callsOf(gate), 1);
      });

      t.test(`${name}: Stop ends the call`, async (t) => {
        const gate = `gate-stop${n}.`;
        const { page } = await openChat(t, version, options);
        await ask(page, gate);
        await untilSome(page);
        await page.click('button[type=button]');
        const call = cluster.upstream.calls.find(({ body }) => body.includes(gate));
        await call?.closed;
        t.equal(call?.finished, false);
      });
    }

    t.test('ai 7: DefaultChatTransport with resumeStream after a cut', async (t) => {
      const { page, proxy } = await openChat(t, 'ai 7', '&default');
      await page.evaluate(() => void (globalThis as unknown as { ask(text: string): void }).ask('gate-default'));
      await untilSome(page);
      proxy.cut();
      await until(() => proxy.requests.at(-1)?.startsWith('GET') === true, 'the page resumes');
      await release('gate-default');
      await untilSome(page, ANSWER.length - 1);
      const seen = await untilComplete(page, 2);
      t.equal(lastText(seen), ANSWER);
      t.equal(seen.messages.length, 2);
      t.equal(callsOf('gate-default'), 1);
    });

    t.test('every replica has the same chunks, from each index and from the end', async (t) => {
      const [first, second] = cluster.replicas.map(({ url }) => url) as [string, string];
      const body = {
        id: 'same',
        messages: [{ role: 'user', parts: [{ type: 'text', text: 'same chunks' }] }],
        resumable: true,
      };
      const posted = await postJson(`${first}/ui/chat`, body);
      const id = posted.headers.get('x-workflow-run-id') ?? '';
      const all = await chunksOf(posted);
      t.equal(all.at(-1)?.id, `${id}.end`);
      const count = all.length - 1;
      for (const url of [first, second]) {
        for (const index of [0, 1, 2, 3, 20, count - 1]) {
          const rest = await chunksOf(await fetch(`${url}/ui/chat/${id}/stream?startIndex=${index}`));
          t.same(rest, all.slice(index), `from ${index}`);
          if (index === 0) continue;
          const again = await fetch(`${url}/ui/chat/same/stream`, { headers: { 'last-event-id': `${id}.c${index}` } });
          t.same(await chunksOf(again), all.slice(index), `after the id of chunk ${index}`);
        }
        const tail = await fetch(`${url}/ui/chat/${id}/stream?startIndex=-5`);
        t.equal(tail.headers.get('x-workflow-stream-tail-index'), String(count - 1));
        t.same(await chunksOf(tail), all.slice(-6), 'the last five');
        for (const index of [count, count + 10]) {
          t.equal((await fetch(`${url}/ui/chat/${id}/stream?startIndex=${index}`)).status, 204, 'nothing follows');
        }
        const ended = await fetch(`${url}/ui/chat/x/stream?lastEventId=${id}.end`);
        t.equal(ended.status, 204);
        const unknown = await fetch(`${url}/ui/chat/x/stream?lastEventId=${'A'.repeat(22)}.c3`);
        t.match(await unknown.text(), /"type":"error"/);
        t.equal((await fetch(`${url}/ui/chat/x/stream?lastEventId=${id}.5`)).status, 400, 'an id of another API');
      }
    });

    t.test('the steps before an answer and its message are known on the other replica', async (t) => {
      const [first, second] = cluster.replicas.map(({ url }) => url) as [string, string];
      const messages = [
        { id: 'u', role: 'user', parts: [{ type: 'text', text: 'gate-context' }] },
        { id: 'a1', role: 'assistant', parts: [{ type: 'step-start' }, { type: 'text', text: 'Let me look.' }] },
      ];
      const posted = await postJson(`${first}/ui/chat`, { id: 'context', messages, resumable: true });
      const replayed = await fetch(`${second}/ui/chat/context/stream`);
      const continued = await fetch(`${second}/ui/chat/${posted.headers.get('x-workflow-run-id')}/stream?startIndex=0`);
      await release('gate-context');
      const all = await chunksOf(posted);
      t.same(await chunksOf(continued), all, 'a client that counts gets the same chunks');
      t.match(all[0]?.data, /"messageId":"a1"/);
      const body = await replayed.text();
      t.match(body, /"messageId":"a1".*"start-step".*"Let me look\.".*"finish-step".*"start-step".*0🚀/s);
    });

    for (const name of ['ai5', 'ai6']) {
      t.test(`${name}: DefaultChatTransport reads an answer to its end`, async (t) => {
        // biome-ignore lint/suspicious/noExplicitAny: each version has types of its own
        const { DefaultChatTransport, readUIMessageStream } = await load<any>(name);
        const transport = new DefaultChatTransport({ api: `${cluster.url}/ui/chat` });
        const messages = [{ id: 'u', role: 'user', parts: [{ type: 'text', text: `plain ${name}` }] }];
        const stream = await transport.sendMessages({ chatId: name, messages, trigger: 'submit-message' });
        let last: Seen['messages'][number] | undefined;
        for await (const message of readUIMessageStream({ stream, terminateOnError: true })) last = message;
        t.equal(last?.parts.map((part) => part.text ?? '').join(''), ANSWER);
        t.equal(callsOf(`plain ${name}`), 1);
      });
    }
  });

  t.test('kill -9 of the replica that serves a page, behind nginx', async (t) => {
    const chats = await Promise.all(PAGES.map(({ version, options }) => openChat(t, version, options)));
    const [producing, serving] = cluster.replicas.map(({ url }) => url) as [string, string];
    for (const [i, { page, proxy }] of chats.entries()) {
      proxy.target = producing;
      proxy.cut();
      await ask(page, `gate-kill${i}`);
      await untilSome(page);
      proxy.target = serving;
      proxy.cut();
      await until(
        () => PAGES[i]?.resumes.test(proxy.requests.at(-1) ?? '') === true,
        'the page reads from the other replica',
      );
    }
    for (const { proxy } of chats) proxy.target = cluster.url;
    cluster.replicas[1]?.child.kill('SIGKILL');
    for (const [i, { page }] of chats.entries()) {
      await release(`gate-kill${i}`);
      const seen = await untilComplete(page, 2);
      t.equal(lastText(seen), ANSWER, String(PAGES[i]?.name));
      t.equal(callsOf(`gate-kill${i}`), 1);
    }
  });
});

/** Tells the page that it is hidden or visible: a headless browser shows every tab. */
function setVisibility(page: Page, state: 'hidden' | 'visible'): Promise<void> {
  return page.evaluate((value) => {
    Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => value });
    document.dispatchEvent(new Event('visibilitychange'));
  }, state);
}

/** Returns the ids and chunks of a response. */
async function chunksOf(response: Response): Promise<{ id: string; data: string }[]> {
  const events = (await response.text()).split('\n\n').filter((event) => event.includes('data: '));
  const field = (event: string, name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(event)?.[1] ?? '';
  return events.map((event) => ({ id: field(event, 'id'), data: field(event, 'data') }));
}
