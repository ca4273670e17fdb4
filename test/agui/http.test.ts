import t, { type Test } from 'tap';
import { userContent } from '../../routes/agui/content.ts';
import type { RunContentPart } from '../../routes/agui/schema.ts';
import { bearer, bellaAt, serve, sha256, until, writeConfig } from '../helper.ts';
import { metricValue } from '../metric-value.ts';
import { postJson } from '../post-json.ts';
import { serveProvider } from '../sdk/service.ts';
import { open, type Reading, readAll } from '../sse-client.ts';
import { chunk, completeAnswer, DONE, type Script, STOP, sse, startUpstream, text } from '../upstream.ts';

/** `/agui` over HTTP: inputs and refusals, resume, join, stop, and owners. */

const user = (content: unknown) => ({ id: 'u', role: 'user', content });
const input = (fields: object = {}) => ({ threadId: 't1', runId: 'r1', messages: [user('q')], ...fields });

async function serviceOf(t: Test, script: Script, env: Record<string, string> = {}) {
  const upstream = await startUpstream(t, script);
  const { app, url } = await serve(t, { env: bellaAt(upstream.url, env) });
  return { app, url: `${url}/agui`, root: url, upstream };
}

const typesOf = ({ events }: Reading) => events.map(({ json }) => json.type);
const textOf = (...readings: Reading[]) =>
  readings.flatMap(({ events }) => events.map(({ json }) => json.delta ?? '')).join('');
const resumeWith = (id: string | undefined) => ({ headers: { 'last-event-id': id } });

const PNG = 'data:image/png;base64,AAAA';
const PDF = 'data:application/pdf;base64,AAAA';
const call = (id: string, fields: object = {}) => ({
  ...{ id, type: 'function', function: { name: 'look', arguments: '{}' } },
  ...fields,
});
const asked = (...ids: string[]) => ({ id: 'a', role: 'assistant', toolCalls: ids.map((id) => call(id)) });
const result = (toolCallId: string, content: unknown, fields: object = {}) => ({
  ...{ id: `r-${toolCallId}`, role: 'tool', toolCallId, content },
  ...fields,
});

t.test('inputs reach the provider', async (t) => {
  const service = await serveProvider(t, 'openai', completeAnswer('ok'));
  const { upstream } = service;
  const url = `${service.url}/agui`;
  const image = { type: 'image_url', image_url: { url: PNG } };
  const file = { type: 'file', file: { file_data: PDF } };
  const provided = [{ id: 'c', type: 'function', function: { name: 'look', arguments: '{}' } }];
  const cases: [name: string, fields: object, expected: object][] = [
    ['text', {}, { messages: [{ role: 'user', content: 'q' }] }],
    [
      'every role',
      {
        messages: [
          { id: 's', role: 'system', content: 'sys' },
          { id: 'd', role: 'developer', content: 'dev' },
          user('one'),
          { id: 'x', role: 'activity', activityType: 'PLAN', content: { a: 1 } },
          { id: 'g', role: 'reasoning', content: 'hm' },
          { id: 'a', role: 'assistant', content: 'two' },
          user('three'),
        ],
      },
      {
        messages: [
          { role: 'system', content: 'sys' },
          { role: 'system', content: 'dev' },
          { role: 'user', content: 'one' },
          { role: 'assistant', content: 'two' },
          { role: 'user', content: 'three' },
        ],
      },
    ],
    [
      'a result follows its call, and a call without a result is left out',
      {
        messages: [
          user('one'),
          { ...asked('c', 'never'), content: 'Looking.' },
          { id: 'b', role: 'assistant', content: 'Wait.' },
          result('c', 'a cat', { name: 'look', metadata: {} }),
        ],
      },
      {
        messages: [
          { role: 'user', content: 'one' },
          { role: 'assistant', content: 'Looking.', tool_calls: provided },
          { role: 'tool', tool_call_id: 'c', content: 'a cat' },
          { role: 'assistant', content: 'Wait.' },
        ],
      },
    ],
    [
      'a result in parts, and one that failed',
      {
        messages: [
          user('one'),
          asked('c', 'd'),
          result('c', [
            { type: 'text', text: 'a' },
            { type: 'text', text: 'b' },
          ]),
          result('d', '', { error: 'broken' }),
        ],
      },
      { messages: [{}, { tool_calls: [{ id: 'c' }, { id: 'd' }] }, { content: 'a\nb' }, { content: 'broken' }] },
    ],
    [
      'images',
      {
        messages: [
          user([
            { type: 'text', text: 'Look:' },
            { type: 'image', source: { type: 'data', value: 'AAAA', mimeType: 'image/png' } },
            { type: 'image', source: { type: 'url', value: PNG } },
            { type: 'binary', mimeType: 'image/png', data: 'AAAA' },
          ]),
        ],
      },
      {
        messages: [
          {
            content: [{ type: 'text', text: 'Look:' }, image, image, image],
          },
        ],
      },
    ],
    [
      'documents',
      {
        messages: [
          user([
            { type: 'text', text: 'Read:' },
            { type: 'document', source: { type: 'data', value: 'AAAA', mimeType: 'application/pdf' } },
            { type: 'document', source: { type: 'url', value: PDF }, metadata: { filename: 'a.pdf' } },
            { type: 'binary', mimeType: 'application/pdf', data: 'AAAA', filename: 'b.pdf' },
          ]),
        ],
      },
      {
        messages: [
          {
            content: [
              {},
              file,
              { file: { file_data: PDF, filename: 'a.pdf' } },
              { file: { file_data: PDF, filename: 'b.pdf' } },
            ],
          },
        ],
      },
    ],
    [
      'context is one system message, behind the system text',
      {
        context: [
          { description: 'Page', value: 'cart' },
          { description: 'User', value: 'Ada' },
        ],
        forwardedProps: { system: 'Be brief.' },
      },
      {
        messages: [
          { role: 'system', content: 'Be brief.' },
          { role: 'system', content: '## Context from the application\n\nPage:\ncart\n\nUser:\nAda' },
          { role: 'user' },
        ],
      },
    ],
    [
      'tools and options',
      {
        tools: [{ name: 'look', description: 'Looks', parameters: { type: 'object' }, metadata: {} }],
        forwardedProps: {
          ...{ model: 'p/m', temperature: 0.5, maxTokens: 7, stop: ['x'], reasoningEffort: 'low' },
          toolChoice: { name: 'look' },
        },
      },
      {
        model: 'm',
        temperature: 0.5,
        stop: ['x'],
        reasoning_effort: 'low',
        tools: [{ type: 'function', function: { name: 'look', description: 'Looks', parameters: { type: 'object' } } }],
        tool_choice: { type: 'function', function: { name: 'look' } },
      },
    ],
    [
      'what has no effect',
      {
        ...{ state: { a: 1 }, parentRunId: 'r0', protocolVersion: '1.0', data: { model: 'x' }, resume: [], tools: [] },
        ...{ forwardedProps: null, context: [] },
      },
      { messages: [{ role: 'user', content: 'q' }] },
    ],
  ];
  for (const [i, [name, fields, expected]] of cases.entries()) {
    const reading = await readAll(url, { body: input({ runId: `run ${i}`, ...fields }) });
    if (typesOf(reading).at(-1) !== 'RUN_FINISHED') t.fail(`${name}: ${reading.response.statusCode}`);
    const body = JSON.parse(upstream.calls[i]?.body ?? '{}');
    t.match(body, expected, name);
    const { messages } = expected as { messages?: unknown[] };
    if (messages) t.equal(body.messages.length, messages.length, `${name}: the number of messages`);
  }
});

t.test('https: URLs of images and documents are passed on', async (t) => {
  const read = (part: RunContentPart) => userContent([part], 'body', (message) => new Error(message));
  const source = { type: 'url', value: 'https://example.com/a.pdf?x' };
  const pdf = { type: 'file', url: source.value, mimeType: 'application/pdf' };
  t.same(read({ type: 'image', source }), [{ type: 'image', url: source.value }], 'an image of unknown type');
  t.same(read({ type: 'binary', mimeType: 'image/png', url: source.value }), [{ type: 'image', url: source.value }]);
  t.same(read({ type: 'document', source }), [pdf], 'a document whose URL says that it is a PDF');
  const typed = { ...source, value: 'https://example.com/a', mimeType: 'application/pdf' };
  t.same(read({ type: 'document', source: typed, metadata: { filename: 7 } }), [{ ...pdf, url: typed.value }]);
  t.throws(() => read({ type: 'document', source: { ...typed, mimeType: 'text/plain' } }), 'another document');
});

t.test('what no prompt can hold is refused with the name of the field', async (t) => {
  const { url, upstream, app } = await serviceOf(t, completeAnswer('ok'));
  const part = (value: object) => ({ messages: [user([value])] });
  const expectPart = /^body\.messages\.0\.content\.0 must be text, an image, or a PDF document/;
  const source = (type: string, value: string, mimeType?: string) => ({ type, value, mimeType });
  const cases: [fields: object, message: RegExp][] = [
    [{ runId: undefined }, /runId/],
    [{ threadId: '' }, /threadId/],
    [{ runId: 'a\nb' }, /runId/],
    [{ runId: 'x'.repeat(256) }, /runId/],
    [{ messages: [] }, /messages/],
    [{ messages: [user('')] }, /messages\.0\.content/],
    [{ messages: [user([])] }, /messages\.0\.content/],
    [{ messages: [{ id: 'u', role: 'user' }] }, /messages\.0/],
    [{ messages: [{ id: 'u', role: 'robot', content: 'x' }] }, /messages\.0\.role/],
    [{ messages: [{ id: 't', role: 'tool', content: 'x' }] }, /messages\.0 must have .*toolCallId/],
    [{ messages: [user('q'), result('no', 'x')] }, /^body\.messages\.1\.toolCallId must be the id of an earlier/],
    [
      { messages: [user('q'), asked('c'), result('c', [{ type: 'image', source: source('url', PNG) }])] },
      /^body\.messages\.2\.content\.0 must be text/,
    ],
    [part({ type: 'audio', source: source('data', 'AAAA', 'audio/wav') }), expectPart],
    [part({ type: 'video', source: source('url', 'https://example.com/v', 'video/mp4') }), expectPart],
    [part({ type: 'image', source: source('file', 'file-1') }), expectPart],
    [part({ type: 'image', source: source('url', 'http://example.com/a') }), expectPart],
    [part({ type: 'image', source: source('url', `https://example.com/${'x'.repeat(2_048)}`) }), expectPart],
    [part({ type: 'image', source: source('data', 'AAAA') }), expectPart],
    [part({ type: 'image', source: source('data', 'AA\nAA', 'image/png') }), expectPart],
    [part({ type: 'image', source: source('data', 'AAAA', 'text/html') }), expectPart],
    [part({ type: 'image', source: source('url', 'data:text/html,x') }), expectPart],
    [part({ type: 'document', source: source('url', 'https://example.com/a.docx') }), expectPart],
    [part({ type: 'document', source: source('data', 'AAAA', 'text/plain') }), expectPart],
    [part({ type: 'document', source: source('url', PNG, 'application/pdf') }), expectPart],
    [part({ type: 'binary', mimeType: 'image/png', id: 'only-an-id' }), expectPart],
    [part({ type: 'binary', data: 'AAAA' }), expectPart],
    [part({ type: 'image' }), expectPart],
    [part({ type: 'text' }), expectPart],
    [{ forwardedProps: { modle: 'x' } }, /^Unknown field in body\.forwardedProps: modle\.$/],
    [{ forwardedProps: { temperature: 3 } }, /forwardedProps\.temperature/],
    [{ forwardedProps: [] }, /forwardedProps/],
    [{ modle: 'x' }, /^Unknown field in body: modle\.$/],
    [{ resume: [{ interruptId: 'i', status: 'resolved' }] }, /resume/],
    [{ tools: [{ name: 'a b' }] }, /tools\.0\.name/],
    [{ context: [{ value: 'x' }] }, /context\.0/],
  ];
  for (const [fields, message] of cases) {
    const response = await postJson(url, input(fields));
    const body = (await response.json()) as { error: { code: string; message: string } };
    t.match({ status: response.status, ...body.error }, { status: 400, code: 'invalid_request', message });
  }
  const statuses: [number, RequestInit, string?][] = [
    [404, { body: JSON.stringify(input({ forwardedProps: { model: 'no/such' } })) }],
    [406, { body: JSON.stringify(input()), headers: { accept: 'application/json' } }],
    [400, { body: JSON.stringify(input()), headers: { 'last-event-id': 'nonsense' } }],
  ];
  for (const [status, { headers, ...init }] of statuses) {
    const types = { 'content-type': 'application/json', ...headers };
    t.equal((await fetch(url, { method: 'POST', ...init, headers: types })).status, status);
  }
  for (const [query, status] of [
    ['', 400],
    ['?offset=now', 400],
    ['?offset=-1', 400],
    ['?runId=unknown&offset=-1', 404],
    ['?threadId=unknown', 204],
    ['?runid=r', 400],
  ] as const) {
    t.equal((await fetch(url + query)).status, status, query);
  }
  await app.lifecycle.drain();
  const draining = await postJson(url, input());
  t.match([draining.status, draining.headers.get('retry-after')], [503, '1'], 'while draining');
  t.equal(upstream.calls.length, 0, 'no provider call');
});

t.test('the provider gets its state back, with clients that return it', async (t) => {
  const head = chunk({ tool_calls: [{ index: 0, id: 'c1', function: { name: 'look', arguments: '{}' } }] });
  const details = chunk({ reasoning_details: [{ type: 'reasoning.encrypted', data: 'xyz' }] });
  const { url, upstream } = await serviceOf(t, ({ response }) => {
    sse(response).end(details + head + chunk({}, 'tool_calls') + DONE);
  });
  const tools = [{ name: 'look', description: 'Looks' }];
  const first = await readAll(url, { body: input({ tools }) });
  const { encryptedValue } = first.events.find(({ json }) => json.type === 'REASONING_ENCRYPTED_VALUE')?.json ?? {};
  t.type(encryptedValue, 'string');
  const toolCalls = [call('renamed', { encryptedValue })];
  const messages = [user('q'), { id: 'a', role: 'assistant', toolCalls }, result('renamed', 'a cat')];
  await readAll(url, { body: input({ runId: 'r2', messages, tools }) });
  t.match(JSON.parse((await upstream.call(2)).body).messages[1], {
    tool_calls: [{ id: 'renamed' }],
    reasoning_details: [{ type: 'reasoning.encrypted', data: 'xyz' }],
  });
  for (const foreign of ['', 'opaque', '[]', '{"provider":7,"details":7}', '"text"']) {
    const other = { ...messages[1], toolCalls: [call('renamed', { encryptedValue: foreign })] };
    const again = await readAll(url, {
      body: input({ runId: `f ${foreign}`, messages: [user('q'), other, messages[2]] }),
    });
    t.equal(typesOf(again)[0], 'RUN_STARTED', `a value of another server: ${foreign}`);
  }
});

t.test('a run that was cut continues behind the event, by every way to say so', async (t) => {
  const { app, url, upstream } = await serviceOf(t, ({ response }) => void sse(response).write(text('Because ')));
  const first = await open(url, { body: input() });
  const { id } = await first.until('TEXT_MESSAGE_CONTENT');
  first.cut();
  await first.ended;
  const ways = [
    open(url, { body: input(), ...resumeWith(id) }),
    open(url, { body: { anything: true }, ...resumeWith(id) }),
    open(url, resumeWith(id)),
    open(`${url}?runId=r1&offset=-1`, resumeWith(id)),
    open(`${url}?lastEventId=${id}`),
    open(`${url}?runId=r1&offset=${id}`),
  ];
  const readings = await Promise.all(ways);
  const joined = await Promise.all([
    open(`${url}?runId=r1&offset=-1`),
    open(`${url}?threadId=t1`),
    open(url, { body: input() }),
  ]);
  await until(async () => (await metricValue(app, 'sluice_readers')) === 9, 'all read');
  (await upstream.call(1)).response.end(text('of light.') + STOP + DONE);
  for (const reading of readings) {
    t.equal(await reading.ended, true);
    t.same(typesOf(reading), ['TEXT_MESSAGE_CONTENT', 'TEXT_MESSAGE_END', 'RUN_FINISHED']);
    t.equal(textOf(first, reading), 'Because of light.');
    t.equal(reading.response.headers['x-sluice-stream'], id.split('.')[0]);
  }
  for (const reading of joined) {
    t.equal(await reading.ended, true);
    t.equal(typesOf(reading)[0], 'RUN_STARTED');
    t.match(reading.events[0]?.json, { threadId: 't1', runId: 'r1' });
    t.equal(textOf(reading), 'Because of light.');
    t.equal(reading.events.at(-1)?.id, `${id.split('.')[0]}.end`);
  }
  t.equal(textOf(await readAll(`${url}?runId=r1&offset=-1`)), 'Because of light.', 'a join after the end');
  t.equal((await fetch(`${url}?threadId=t1`)).status, 204, 'no run of the conversation is running');
  t.equal(upstream.calls.length, 1, 'one provider call');
  t.equal(await metricValue(app, 'sluice_resumes_total', { outcome: 'hit' }), 6);
});

t.test('behind the last event there is only that event, once more and without an id', async (t) => {
  const { app, url } = await serviceOf(t, completeAnswer('ok'));
  const first = await readAll(url, { body: input() });
  const id = first.events.at(-1)?.id;
  t.match(id, /\.end$/);
  for (const options of [{ body: input(), ...resumeWith(id) }, resumeWith(id)]) {
    const again = await readAll(url, options);
    t.same(again.events, [{ ...first.events.at(-1), id: '' }]);
  }
  const expired = await fetch(url, { headers: { 'last-event-id': `${'A'.repeat(22)}.end` } });
  t.equal(expired.status, 204, 'of an expired run');
  t.equal(await metricValue(app, 'sluice_resumes_total', { outcome: 'ended' }), 3);
});

t.test('an unknown run, or a position that does not exist, is an error event', async (t) => {
  const { app, url, root } = await serviceOf(t, completeAnswer('ok'));
  const { events } = await readAll(url, { body: input() });
  const stream = events[0]?.id.split('.')[0];
  const other = (await (await postJson(`${root}/streams`, { question: 'q' })).json()) as { id: string };
  for (const id of [`${'A'.repeat(22)}.3`, `${stream}.99`, `${stream}.99.1`, `${other.id}.0`]) {
    const reading = await readAll(url, resumeWith(id));
    t.match(
      reading.events,
      [{ id: `${id.split('.')[0]}.end`, json: { type: 'RUN_ERROR', code: 'stream_unknown' } }],
      id,
    );
  }
  t.equal(await metricValue(app, 'sluice_resumes_total', { outcome: 'unknown' }), 4);
});

t.test('a stream that another API has started keeps no names of a run, and the other way round', async (t) => {
  const { url, root } = await serviceOf(t, completeAnswer('ok'));
  const parts = [{ type: 'text', text: 'hello' }];
  const messages = ['user', 'assistant'].map((role) => ({ id: role, role, parts }));
  const chat = await postJson(`${root}/ui/chat`, { id: 'chat', messages, resumable: true });
  t.match(await chat.text(), /"messageId":"assistant"/, 'its stream has a context');
  const id = String(chat.headers.get('x-sluice-stream'));
  const asRun = await readAll(url, resumeWith(`${id}.0`));
  t.match(asRun.events, [{ json: { type: 'RUN_ERROR', code: 'stream_unknown' } }]);
  const run = await readAll(url, { body: input({ threadId: '{"messageId":"m"}' }) });
  const stream = String(run.events[0]?.id.split('.')[0]);
  const asChat = await readAll(`${root}/ui/chat/${stream}/stream`);
  t.match(asChat.events[0]?.json, { type: 'start', messageId: stream });
});

t.test('a resume that cannot be served now is a broken connection, a join is a status', async (t) => {
  const yaml = 'limits: { readersPerStream: 1 }';
  const { app, url } = await serviceOf(t, ({ response }) => void sse(response).write(text('x')), {
    CONFIG_FILE: writeConfig(t, yaml),
  });
  const first = await open(url, { body: input() });
  const { id } = await first.until('TEXT_MESSAGE_CONTENT');
  for (const options of [{ body: input(), ...resumeWith(id) }, resumeWith(id)]) {
    const reading = await open(url, options);
    t.equal(reading.response.statusCode, 200);
    t.equal(await reading.ended, false, 'the response is not complete');
    t.same(reading.events, []);
  }
  t.equal(await metricValue(app, 'sluice_resumes_total', { outcome: 'unavailable' }), 2);
  const cut = async (method: string) => await metricValue(app, 'sluice_requests_total', { method, route: '/agui' });
  await until(async () => (await cut('GET')) === 1 && (await cut('POST')) === 1, 'both are counted as answered');
  t.equal(await metricValue(app, 'sluice_responses_aborted_total'), 0, 'and not as clients that left');
  const join = await fetch(`${url}?runId=r1&offset=-1`, { headers: { accept: 'text/event-stream' } });
  t.match([join.status, join.headers.get('retry-after')], [503, /\d/], 'a join');
});

t.test('a runId stands for one input', async (t) => {
  const { url, upstream } = await serviceOf(t, completeAnswer('ok'));
  const first = await readAll(url, { body: input() });
  const again = await readAll(url, { body: input() });
  t.same(again.events, first.events, 'the same run');
  for (const fields of [{ messages: [user('other')] }, { threadId: 't2' }, { forwardedProps: { temperature: 1 } }]) {
    const response = await postJson(url, input(fields));
    t.match([response.status, await response.json()], [409, { error: { code: 'conflict', message: /runId/ } }]);
  }
  t.equal(upstream.calls.length, 1, 'one provider call');
});

t.test('a run that failed before its first part may be tried again, and is still found', async (t) => {
  const { url, upstream } = await serviceOf(t, ({ response }) => void response.writeHead(500).end());
  const failed = await readAll(url, { body: input() });
  t.match(failed.events.at(-1)?.json, { type: 'RUN_ERROR', code: /./, metadata: { sluice: { retryable: true } } });
  const calls = upstream.calls.length;
  const joined = await readAll(`${url}?runId=r1&offset=-1`);
  t.same(joined.events.at(-1), failed.events.at(-1), 'a join finds the failure');
  t.equal(upstream.calls.length, calls, 'a join asks nothing');
  await readAll(url, { body: input() });
  t.ok(upstream.calls.length > calls, 'the same input starts it again');
});

t.test('a stop ends the provider call; a client that leaves does not, unless it asks for that', async (t) => {
  const { url, root, upstream } = await serviceOf(t, ({ response }) => void sse(response).write(text('x')));
  const reader = await open(url, { body: input() });
  const { stopUrl, stream } = (await reader.until('RUN_STARTED')).json.metadata.sluice;
  await reader.until('TEXT_MESSAGE_CONTENT');
  t.equal(stopUrl, `/streams/${stream}/stop`);
  t.equal((await fetch(root + stopUrl, { method: 'POST' })).status, 204);
  await (await upstream.call(1)).closed;
  t.equal(await reader.ended, true);
  t.match(reader.events.at(-1)?.json, { type: 'RUN_FINISHED', outcome: { type: 'cancelled' } });

  const leaving = await open(url, { body: input({ runId: 'r2', forwardedProps: { resumable: false } }) });
  await leaving.until('TEXT_MESSAGE_CONTENT');
  leaving.cut();
  await (await upstream.call(2)).closed;
  t.pass('`resumable: false` ends with its client');

  const staying = await open(url, { body: input({ runId: 'r3' }) });
  await staying.until('TEXT_MESSAGE_CONTENT');
  staying.cut();
  await staying.ended;
  const back = await open(`${url}?runId=r3&offset=-1`);
  await back.until('TEXT_MESSAGE_CONTENT');
  t.equal((await upstream.call(3)).closedAt, undefined, 'the call goes on for the grace time');
});

const KEYS = `keys:
  - { name: a, sha256: "${sha256('sk-a')}" }
  - { name: b, sha256: "${sha256('sk-b')}" }`;

t.test('owners see only their own runs and conversations', async (t) => {
  const { url, upstream } = await serviceOf(t, ({ response }) => void sse(response).write(text('x')), {
    CONFIG_FILE: writeConfig(t, KEYS),
  });
  const as = (key: string, options: { body?: unknown; headers?: object } = {}) => ({
    ...options,
    headers: { ...bearer(`sk-${key}`), ...options.headers },
  });
  t.equal((await open(url, { body: input() })).response.statusCode, 401, 'nobody');
  const ofA = await open(url, as('a', { body: input() }));
  const { id } = await ofA.until('TEXT_MESSAGE_CONTENT');
  t.equal(
    (await fetch(`${url}?runId=r1&offset=-1`, { headers: bearer('sk-b') })).status,
    404,
    'a join of another owner',
  );
  t.equal(
    (await fetch(`${url}?threadId=t1`, { headers: bearer('sk-b') })).status,
    204,
    'a conversation of another owner',
  );
  const resumed = await readAll(url, as('b', resumeWith(id) as object));
  t.match(resumed.events, [{ json: { code: 'stream_unknown' } }], 'a resume of another owner');
  const ofB = await open(url, as('b', { body: input() }));
  await ofB.until('TEXT_MESSAGE_CONTENT');
  t.equal(upstream.calls.length, 2, 'the same runId is another run');
  const { url: read } = (await ofA.until('RUN_STARTED')).json.metadata.sluice;
  t.match(read, /ticket=/, 'the URLs carry a ticket');
});

t.test('a ticket starts, resumes and joins its run', async (t) => {
  const { url, root, upstream } = await serviceOf(t, ({ response }) => void sse(response).write(text('x')), {
    CONFIG_FILE: writeConfig(t, KEYS),
  });
  const issue = async (body: object = {}) =>
    ((await (await postJson(`${root}/tickets`, body, bearer('sk-a'))).json()) as { ticket: string }).ticket;
  const ticket = await issue();
  const first = await open(`${url}?ticket=${ticket}`, { body: input() });
  const { id } = await first.until('TEXT_MESSAGE_CONTENT');
  const { stopUrl } = (await first.until('RUN_STARTED')).json.metadata.sluice;
  const again = await open(url, { body: input(), headers: bearer(ticket) });
  await again.until('TEXT_MESSAGE_CONTENT');
  const joined = await open(`${url}?runId=r1&offset=-1&ticket=${ticket}`);
  await joined.until('TEXT_MESSAGE_CONTENT');
  const resumed = await open(`${url}?ticket=${ticket}`, resumeWith(id));
  t.equal((await postJson(`${url}?ticket=${ticket}`, input({ runId: 'r2' }))).status, 401, 'another run');
  t.equal((await fetch(`${url}/capabilities?ticket=${ticket}`)).status, 200, 'capabilities');
  t.equal((await fetch(root + stopUrl, { method: 'POST' })).status, 204, 'stop');
  await resumed.ended;
  t.same(typesOf(resumed), ['TEXT_MESSAGE_END', 'RUN_FINISHED']);
  t.equal(upstream.calls.length, 1, 'one provider call');
});

t.test('pages of another origin may send what these clients send, and read the id of the stream', async (t) => {
  const origin = 'https://app.example';
  const { url } = await serviceOf(t, completeAnswer('ok'), { CORS_ORIGINS: origin });
  const wanted = 'content-type,authorization,last-event-id,x-run-id';
  const preflight = await fetch(url, {
    method: 'OPTIONS',
    headers: { origin, 'access-control-request-method': 'POST', 'access-control-request-headers': wanted },
  });
  t.equal(preflight.status, 204);
  t.equal(preflight.headers.get('access-control-allow-headers'), wanted);
  const { response } = await readAll(url, { body: input(), headers: { origin } });
  t.match(response.headers['access-control-expose-headers'], /x-sluice-stream/);
});
