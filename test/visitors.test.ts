import { request } from 'node:http';
import t, { type Test } from 'tap';
import { type BuildOptions, bearer, captureLog, serve, sha256, until, writeConfig } from './helper.ts';
import { postJson } from './post-json.ts';
import { open } from './sse-client.ts';
import { completeAnswer, type Script, startUpstream, unfinishedAnswer } from './upstream.ts';

/** Tickets of a page wherever it can ask, and visitors with streams and limits of their own. */

const KEY = 'sk-sluice-key-of-a-page';

interface PageOptions extends BuildOptions {
  readonly script?: Script;
  /** Further settings of the key. */
  readonly key?: string;
}

async function servePage(t: Test, { script = completeAnswer('x'), key = '', ...overrides }: PageOptions = {}) {
  const upstream = await startUpstream(t, script);
  const yaml = `
keys: [{ name: web, sha256: ${sha256(KEY)}${key && `, ${key}`} }]
providers: { it: { type: openai-compatible, baseUrl: "${upstream.url}/v1", apiKeys: [k] } }
models:
  - { name: big, targets: [{ provider: it, model: m }] }
  - { name: small, targets: [{ provider: it, model: s }] }`;
  const { app, url } = await serve(t, {
    env: { CONFIG_FILE: writeConfig(t, yaml), DEFAULT_MODEL: 'big' },
    ...overrides,
  });
  const mint = (body: object = {}) => postJson(`${url}/tickets`, body, bearer(KEY));
  const ticket = async (body: object = {}) => ((await (await mint(body)).json()) as { ticket: string }).ticket;
  return { upstream, app, url, mint, ticket };
}

type Page = Awaited<ReturnType<typeof servePage>>;
interface Asked {
  readonly status: number;
  readonly stream: string | undefined;
  readonly error: { code: string; message: string } | undefined;
}

/** The ways in which a page asks. Each takes what a page sends: a question, and the rest of its body or query. */
const WAYS = {
  'GET /ask/stream': async (
    url: string,
    query: string,
    headers: Record<string, string>,
    { question, system, model, key }: Fields,
  ) => {
    const search = new URLSearchParams({
      question,
      ...(system && { system }),
      ...(model && { model }),
      ...(key && { key }),
    });
    return fetch(`${url}/ask/stream?${search}${query.replace('?', '&')}`, { headers });
  },
  'POST /ask/stream': (url: string, query: string, headers: Record<string, string>, { key: _, ...body }: Fields) =>
    postJson(`${url}/ask/stream${query}`, body, headers),
  'POST /streams': (url: string, query: string, headers: Record<string, string>, { key, ...body }: Fields) =>
    postJson(`${url}/streams${query}`, body, { ...headers, ...(key && { 'idempotency-key': key }) }),
  'POST /ui/chat': (url: string, query: string, headers: Record<string, string>, { question, system, model }: Fields) =>
    postJson(
      `${url}/ui/chat${query}`,
      {
        id: 'c',
        ...(model && { model }),
        messages: [
          ...(system ? [{ id: 's', role: 'system', parts: [{ type: 'text', text: system }] }] : []),
          { id: 'm', role: 'user', parts: [{ type: 'text', text: question }] },
        ],
      },
      headers,
    ),
  'POST /agui': (url: string, query: string, headers: Record<string, string>, fields: Fields) =>
    postJson(
      `${url}/agui${query}`,
      {
        threadId: 't',
        runId: fields.key ?? fields.question,
        messages: [
          ...(fields.system ? [{ id: 's', role: 'system', content: fields.system }] : []),
          { id: 'm', role: 'user', content: fields.question },
        ],
        ...(fields.model && { forwardedProps: { model: fields.model } }),
      },
      headers,
    ),
};
interface Fields {
  readonly question: string;
  readonly system?: string;
  readonly model?: string;
  readonly key?: string;
}
type Way = keyof typeof WAYS;

async function ask(
  { url }: Page,
  way: Way,
  ticket: string,
  fields: Fields,
  as: 'query' | 'bearer' = 'query',
): Promise<Asked> {
  const response = await WAYS[way](
    url,
    as === 'query' ? `?ticket=${ticket}` : '',
    as === 'bearer' ? bearer(ticket) : {},
    fields,
  );
  const body = await response.text();
  const stream = response.headers.get('x-sluice-stream') ?? /"(?:stream|id)":"([\w-]{22})"/.exec(body)?.[1];
  const { error } = response.ok ? { error: undefined } : (JSON.parse(body) as { error: Asked['error'] });
  return { status: response.status, stream, error };
}

const isOk = ({ status }: Asked) => status === 200 || status === 201;

for (const way of Object.keys(WAYS) as Way[]) {
  t.test(`${way}: a ticket asks in the query and as a bearer, once`, async (t) => {
    const page = await servePage(t);
    for (const as of ['query', 'bearer'] as const) {
      const ticket = await page.ticket();
      const [first, again] = [
        await ask(page, way, ticket, { question: 'q' }, as),
        await ask(page, way, ticket, { question: 'q' }, as),
      ];
      t.ok(isOk(first), `${as}: accepted`);
      t.equal(again.stream, first.stream, `${as}: the same question is the same stream`);
      t.match(await ask(page, way, ticket, { question: 'other' }, as), {
        status: 401,
        error: { code: 'unauthorized', message: 'This ticket was used for another question; request a new one.' },
      });
    }
    await until(() => page.upstream.calls.length >= 2, 'the provider is asked');
    t.equal(page.upstream.calls.length, 2, 'one call for each ticket');
    t.equal((await ask(page, way, 'x.y', { question: 'q' }, 'bearer')).status, 401, 'no ticket');
  });

  t.test(`${way}: what a ticket fixes, a page may leave out and cannot change`, async (t) => {
    const page = await servePage(t);
    const fixed = { system: 'Be brief.', model: 'small', maxTokens: 7, question: 'q' };
    t.ok(isOk(await ask(page, way, await page.ticket(fixed), { question: 'q' })));
    await until(() => page.upstream.calls.length === 1, 'the provider is asked');
    t.match(JSON.parse(page.upstream.calls[0]?.body ?? ''), {
      model: 's',
      max_tokens: 7,
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'q' },
      ],
    });
    const refused = async (fields: Fields) => {
      const { status, error } = await ask(page, way, await page.ticket(fixed), fields);
      return [status, error?.code];
    };
    t.same(await refused({ question: 'other' }), [403, 'forbidden'], 'the question');
    t.same(await refused({ question: 'q', system: 'Be long.' }), [403, 'forbidden'], 'the system text');
    t.same(await refused({ question: 'q', model: 'big' }), [403, 'forbidden'], 'the model');
    t.equal(page.upstream.calls.length, 1, 'nothing that was refused is asked');
    t.ok(isOk(await ask(page, way, await page.ticket(fixed), { question: 'q', model: 'small' })), 'the same model');
  });

  t.test(`${way}: a ticket for several questions starts as many`, async (t) => {
    const page = await servePage(t);
    const ticket = await page.ticket({ questions: 3, visitor: 'v' });
    const asked = [];
    for (const question of ['a', 'b', 'c']) asked.push(await ask(page, way, ticket, { question }));
    t.ok(asked.every(isOk));
    t.match(await ask(page, way, ticket, { question: 'd' }), {
      status: 401,
      error: { message: /^This ticket was used/ },
    });
    await until(() => page.upstream.calls.length >= 3, 'the provider is asked');
    t.equal(page.upstream.calls.length, 3);
  });

  t.test(`${way}: limits of a visitor refuse it, and not another visitor of the key`, async (t) => {
    const page = await servePage(t, { key: 'visitors: { requestsPerMinute: 2 }' });
    const visitor = async (name: string, limits = {}) => {
      const ticket = await page.ticket({ visitor: name, questions: 9, ...limits });
      return (question: string) => ask(page, way, ticket, { question });
    };
    const [busy, other, third] = [
      await visitor('busy'),
      await visitor('other'),
      await visitor('third', { requestsPerMinute: 1 }),
    ];
    t.ok(isOk(await busy('a')));
    t.ok(isOk(await busy('b')));
    for (let i = 0; i < 3; i++) t.match(await busy(`c${i}`), { status: 429, error: { code: 'rate_limited' } });
    t.equal((await (await visitor('busy'))('d')).status, 429, 'also with another ticket');
    t.ok(isOk(await other('a')));
    t.ok(isOk(await third('a')));
    t.equal((await third('b')).status, 429, 'the limit of its ticket');
    await until(() => page.upstream.calls.length >= 4, 'the provider is asked');
    t.equal(page.upstream.calls.length, 4);
  });
}

t.test('a visitor with a new ticket and the same key reads the same answer: a reload asks nothing', async (t) => {
  const page = await servePage(t, { script: unfinishedAnswer('one ') });
  const askWith = async (visitor: string | undefined, key: string, question = 'q') => {
    const ticket = await page.ticket(visitor === undefined ? {} : { visitor });
    const reading = await open(`${page.url}/ask/stream?question=${question}&key=${key}&ticket=${ticket}`);
    t.teardown(() => reading.cut());
    return { ticket, ...(await reading.until('start')).json } as unknown as {
      ticket: string;
      stream: string;
      url: string;
    };
  };
  const first = await askWith('v', 'k1');
  const second = await askWith('v', 'k1');
  t.equal(second.stream, first.stream);
  t.equal(page.upstream.calls.length, 1, 'one call');
  const posted = await postJson(
    `${page.url}/streams?ticket=${second.ticket}`,
    { question: 'q' },
    { 'idempotency-key': 'k1' },
  );
  t.equal(((await posted.json()) as { id: string }).id, first.stream, 'also by POST');
  t.ok(
    isOk(await ask(page, 'POST /streams', second.ticket, { question: 'r', key: 'k2' })),
    'the ticket has asked nothing yet',
  );
  t.equal((await ask(page, 'POST /streams', second.ticket, { question: 's', key: 'k3' })).status, 401, 'now it has');
  t.match(
    await ask(page, 'POST /streams', await page.ticket({ visitor: 'v' }), { question: 'other', key: 'k1' }),
    { status: 409, error: { code: 'conflict' } },
    'another question with the key',
  );
  t.not((await askWith('other', 'k1')).stream, first.stream, 'another visitor with the same key');
  t.not((await askWith(undefined, 'k1')).stream, first.stream, 'a ticket without a visitor');
  t.not((await askWith(undefined, 'k1')).stream, (await askWith(undefined, 'k1')).stream, 'each of these is alone');
});

t.test('a visitor owns its streams, also against other visitors of the key; the key owns all', async (t) => {
  const page = await servePage(t, { script: unfinishedAnswer('one ') });
  const ofA = await page.ticket({ visitor: 'a', questions: 9 });
  const answer = await open(`${page.url}/ask/stream?question=q&ticket=${ofA}`);
  t.teardown(() => answer.cut());
  const { stream, url } = (await answer.until('start')).json as { stream: string; url: string };
  await answer.until('delta');
  const chat = {
    id: 'chat',
    messages: [{ id: 'm', role: 'user', parts: [{ type: 'text', text: 'q' }] }],
    resumable: true,
  };
  const ui = await fetch(`${page.url}/ui/chat?ticket=${ofA}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(chat),
  });
  t.teardown(() => ui.body?.cancel());
  const point = `${stream}.0`;
  const resumed = async (ticket: string) =>
    (await readFirst(`${page.url}/ask/stream?question=q&ticket=${ticket}&lastEventId=${point}`)).type;
  const joins = async (ticket: string) => {
    const response = await fetch(`${page.url}/ui/chat/chat/stream?ticket=${ticket}`);
    await response.body?.cancel();
    return response.status;
  };
  const later = await page.ticket({ visitor: 'a' });
  const others = {
    'another visitor': await page.ticket({ visitor: 'b' }),
    'a ticket without a visitor': await page.ticket(),
  };
  t.equal(await resumed(later), 'delta', 'a later ticket of the visitor resumes');
  t.equal(await joins(later), 200, 'and joins the conversation');
  for (const [name, ticket] of Object.entries(others)) {
    t.equal(await resumed(ticket), 'error', `${name} resumes nothing`);
    t.equal(await joins(ticket), 204, `${name} finds no conversation`);
    t.equal((await fetch(`${page.url}/streams/${stream}?ticket=${ticket}`)).status, 401, `${name} reads nothing`);
    t.equal(
      (await fetch(`${page.url}/streams/${stream}?ticket=${ticket}`, { method: 'DELETE' })).status,
      401,
      `${name} stops nothing`,
    );
  }
  const others2 = await open(`${page.url}/ask/stream?question=r&ticket=${await page.ticket({ visitor: 'b' })}`);
  t.teardown(() => others2.cut());
  const { url: urlOfB } = (await others2.until('start')).json as { url: string };
  const query = new URL(urlOfB, page.url).search;
  t.equal((await fetch(`${page.url}/streams/${stream}${query}`)).status, 401, 'the url of another stream');
  t.equal((await readFirst(`${page.url}${url}`)).type, 'start', 'the url of the stream itself');
  t.equal((await readFirst(`${page.url}/streams/${stream}`, bearer(KEY))).type, 'start', 'the key reads it');
  t.equal((await fetch(`${page.url}/streams/${stream}`, { method: 'DELETE', headers: bearer(KEY) })).status, 204);
  t.equal((await answer.until('end')).json.finishReason, 'stopped', 'the key has stopped it');
});

t.test('tickets of a page without visitors have conversations of their own', async (t) => {
  const page = await servePage(t, { script: unfinishedAnswer('one ') });
  const chat = {
    id: 'same',
    messages: [{ id: 'm', role: 'user', parts: [{ type: 'text', text: 'q' }] }],
    resumable: true,
  };
  const start = async (headers: Record<string, string>) => {
    const response = await postJson(`${page.url}/ui/chat`, chat, headers);
    t.teardown(() => response.body?.cancel());
    return response.headers.get('x-sluice-stream');
  };
  const join = async (headers: Record<string, string>) => {
    const response = await fetch(`${page.url}/ui/chat/same/stream`, { headers });
    await response.body?.cancel();
    return response.headers.get('x-sluice-stream');
  };
  const [a, b] = [bearer(await page.ticket()), bearer(await page.ticket())];
  const ofKey = await start(bearer(KEY));
  const [ofA, ofB] = [await start(a), await start(b)];
  t.same(
    [await join(bearer(KEY)), await join(a), await join(b)],
    [ofKey, ofA, ofB],
    'no conversation replaces another',
  );
});

t.test('an expired ticket of a page resumes by POST, charged to the ticket, and starts nothing', async (t) => {
  const page = await servePage(t, { script: unfinishedAnswer('one '), key: 'requestsPerMinute: 40' });
  const ticket = await page.ticket({ seconds: 1, visitor: 'v' });
  const reading = await open(`${page.url}/ask/stream?question=q&ticket=${ticket}`);
  t.teardown(() => reading.cut());
  const { stream } = (await reading.until('start')).json as { stream: string };
  const expires = Number(JSON.parse(Buffer.from(ticket.split('.')[0] as string, 'base64url').toString()).expires);
  await until(() => Date.now() > expires, 'the ticket has expired');
  const left = async () => Number((await page.mint()).headers.get('ratelimit-remaining'));
  const before = await left();
  const resume = async () => {
    const response = await postJson(
      `${page.url}/ask/stream`,
      {},
      { ...bearer(ticket), 'last-event-id': `${stream}.0` },
    );
    await response.body?.cancel();
    return response.status;
  };
  t.equal(await resume(), 200);
  for (const way of ['POST /ask/stream', 'POST /streams', 'POST /ui/chat', 'POST /agui'] as const) {
    t.equal((await ask(page, way, ticket, { question: 'q' })).status, 401, way);
    const withPoint = await WAYS[way](
      page.url,
      '',
      {
        ...bearer(ticket),
        ...(way === 'POST /streams' && { 'last-event-id': `${stream}.0` }),
      },
      { question: 'q' },
    );
    t.equal(withPoint.status, 401, `${way} with a resume point`);
  }
  const join = async (offset: string) => (await fetch(`${page.url}/agui?offset=${offset}&ticket=${ticket}`)).status;
  t.equal(await join(`${stream}.0`), 200, 'an offset is a resume point');
  t.equal(await join('-1'), 401, 'the start is none');
  t.equal(await left(), before - 1, 'the key has paid for nothing of it');
  const statuses = [];
  for (let i = 0; i < 12; i++) statuses.push(await resume());
  t.ok(statuses.includes(429), 'ten requests per minute of the ticket');
});

t.test(
  'a visitor gets as many tickets as it may ask questions, and no more of them cost its key nothing',
  async (t) => {
    const page = await servePage(t, { key: 'requestsPerMinute: 7, visitors: { requestsPerMinute: 2 }' });
    const statuses = async (body: object, count: number) => {
      const responses = [];
      for (let i = 0; i < count; i++) responses.push((await page.mint(body)).status);
      return responses;
    };
    t.same(await statuses({ visitor: 'busy' }, 6), [201, 201, 429, 429, 429, 429]);
    t.same(await statuses({ visitor: 'other', requestsPerMinute: 1 }, 2), [201, 429]);
    const ticket = await page.ticket({ visitor: 'third' });
    t.ok(isOk(await ask(page, 'POST /streams', ticket, { question: 'q' })), 'tickets and questions count apart');
    t.same(await statuses({}, 3), [201, 201, 429], 'the key has paid for seven');
  },
);

t.test('a body of POST /tickets that is wrong, too large or cut counts for the key', async (t) => {
  const page = await servePage(t, { key: 'requestsPerMinute: 100' });
  const left = async () => Number((await page.mint()).headers.get('ratelimit-remaining'));
  let expected = await left();
  const json = { ...bearer(KEY), 'content-type': 'application/json' };
  const post = (body: string) => fetch(`${page.url}/tickets`, { method: 'POST', headers: json, body });
  for (const body of ['{', '{"visitor":1}', `"${'x'.repeat(2_000_000)}"`]) {
    await (await post(body)).text();
    expected -= 2;
    t.equal(await left(), expected, body.slice(0, 20));
  }
  const { limits } = page.app;
  const { countGuess } = limits;
  const counted = new Promise<void>((resolve) => {
    limits.countGuess = async (...args) => {
      await countGuess(...args);
      resolve();
    };
  });
  const cut = request(`${page.url}/tickets`, { method: 'POST', headers: { ...json, 'content-length': 1_000 } });
  cut.on('error', () => {});
  await new Promise((sent) => cut.write('{"visitor":', sent));
  cut.destroy();
  await counted;
  t.equal(await left(), expected - 2, 'a cut one');
});

t.test('POST /tickets refuses what contradicts itself, and says which field', async (t) => {
  const page = await servePage(t);
  const cases: [body: object, status: number, message: RegExp][] = [
    [{ requestsPerMinute: 1 }, 400, /^Limits are those of a visitor; send visitor, too\.$/],
    [{ tokensPerMinute: 1 }, 400, /^Limits are those of a visitor; send visitor, too\.$/],
    [{ tokensPerDay: 1 }, 400, /^Limits are those of a visitor; send visitor, too\.$/],
    [{ maxConcurrent: 1 }, 400, /^Limits are those of a visitor; send visitor, too\.$/],
    [{ question: 'q', questions: 2 }, 201, /^$/],
    [{ requestsPerMinute: 0 }, 400, /requestsPerMinute/],
    [{ seconds: 61 }, 400, /^seconds must be at most 60, or send questions\.$/],
    [{ seconds: 61, questions: 1 }, 400, /^seconds must be at most 60/],
    [{ seconds: 3_601, questions: 2 }, 400, /seconds/],
    [{ questions: 0 }, 400, /questions/],
    [{ questions: 1_001 }, 400, /questions/],
    [{ visitor: '' }, 400, /visitor/],
    [{ visitor: 'v'.repeat(129) }, 400, /visitor/],
    [{ visitor: 'v', maxConcurrent: 0 }, 400, /maxConcurrent/],
    [{ system: '€'.repeat(2_000) }, 400, /^The ticket would be too long: shorten system\.$/],
    [{ maxTokens: 0 }, 400, /maxTokens/],
    [{ visitors: 'v' }, 400, /visitors/],
    [{ visitor: 'v'.repeat(128), maxConcurrent: 1, questions: 1_000, seconds: 3_600 }, 201, /^$/],
    [{ question: 'q'.repeat(100_000), questions: 1 }, 201, /^$/],
    [{ system: 'x'.repeat(2_500) }, 201, /^$/],
  ];
  for (const [body, status, message] of cases) {
    const response = await page.mint(body);
    const { error } = (await response.json()) as { error?: { message: string } };
    t.equal(response.status, status, JSON.stringify(body).slice(0, 80));
    t.match(error?.message ?? '', message);
  }
});

t.test('the name of a visitor is in no log line and no metric; its hash is in the lines of its answers', async (t) => {
  const { logTo, log } = captureLog();
  const page = await servePage(t, { logTo });
  const ticket = await page.ticket({ visitor: 'ada@example.org' });
  t.ok(isOk(await ask(page, 'POST /streams', ticket, { question: 'q' })));
  await until(() => log().includes('"msg":"stream ended"'), 'the end is logged');
  const [, hash = ''] = /"owner":"key:web#([\w-]{16})"/.exec(log()) ?? [];
  t.not(hash, '', 'the hash is logged with the key');
  const metrics = await page.app.metrics.text();
  t.match(metrics, /^sluice_tokens_total\{key="web",/m, 'its tokens are counted for the key');
  t.notMatch(metrics, hash);
  t.notMatch(log() + metrics, 'ada@example.org');
});

/** Returns the first event of a stream with a type. */
async function readFirst(url: string, headers: Record<string, string> = {}) {
  const reading = await open(url, { headers });
  await until(() => reading.events.some(({ json }) => 'type' in json), 'an event has come');
  reading.cut();
  return reading.events.find(({ json }) => 'type' in json)?.json as { type: string };
}
