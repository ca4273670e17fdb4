import t, { type Test } from 'tap';
import { bearer, serve, sha256, until, writeConfig } from '../helper.ts';
import { manualDate } from '../manual-date.ts';
import { metricValue } from '../metric-value.ts';
import { postJson } from '../post-json.ts';
import { open } from '../sse-client.ts';
import {
  chunk,
  completeAnswer,
  DONE,
  type Script,
  STOP,
  sse,
  startUpstream,
  text,
  unfinishedAnswer,
} from '../upstream.ts';
import { checkGrammar } from './grammar.ts';

/** Stored responses over HTTP: conversations, lists, owners, resume, and what is not kept. */

// biome-ignore lint/suspicious/noExplicitAny: bodies of every shape
type Body = any;

async function serviceOf(t: Test, script: Script, yaml = '') {
  const upstream = await startUpstream(t, script);
  const provider = `providers: { p: { type: openai, api: chat, baseUrl: "${upstream.url}/v1", apiKeys: [k], models: [m] } }`;
  const env = { CONFIG_FILE: writeConfig(t, `${provider}\n${yaml}`), DEFAULT_MODEL: 'p/m' };
  const { app, url: root } = await serve(t, { env });
  const url = `${root}/v1/responses`;
  const create = async (body: object, headers = {}): Promise<Body> => (await postJson(url, body, headers)).json();
  const get = async (path: string, headers = {}): Promise<Body> => (await fetch(`${url}/${path}`, { headers })).json();
  /** Asks, and returns the messages that the provider got. */
  const messagesOf = async (body: object): Promise<Body[]> => {
    const { error } = await create(body);
    if (error) throw new Error(error.message);
    return JSON.parse(upstream.calls.at(-1)?.body ?? '').messages;
  };
  return { app, root, url, upstream, create, get, messagesOf };
}

const user = (content: unknown) => ({ role: 'user', content });
const jsonsOf = (reading: { named: readonly { json: Body }[] }) => reading.named.map(({ json }) => json);
const numbersOf = (list: Body) => list.data.map(({ id }: Body) => id);

t.test('a conversation is found through all its responses', async (t) => {
  const { create, get, messagesOf, url } = await serviceOf(t, completeAnswer('ok'), 'limits: { messages: 6 }');
  const first = await create({ input: 'one', instructions: 'Only here.' });
  const second = await create({ previous_response_id: first.id, input: [user('two')] });
  t.equal(second.previous_response_id, first.id);
  const messages = await messagesOf({ previous_response_id: second.id, input: 'three' });
  t.match(messages, [
    { content: 'one' },
    { content: 'ok' },
    { content: 'two' },
    { content: 'ok' },
    { content: 'three' },
  ]);
  t.equal(messages.length, 5, 'instructions are not taken over');
  t.match(await messagesOf({ previous_response_id: second.id }), { length: 4 }, 'without input');
  const two = [user('a'), user('b')];
  t.equal((await messagesOf({ previous_response_id: second.id, input: two })).length, 6);
  const { error } = await create({ previous_response_id: second.id, input: [...two, user('c')] });
  t.equal(error.param, 'input', 'as many items as a question may have');

  const list = await get(`${second.id}/input_items?order=asc`);
  t.match(list, {
    object: 'list',
    has_more: false,
    data: [{ content: [{ type: 'input_text', text: 'one' }] }, { role: 'assistant' }, { content: [{ text: 'two' }] }],
  });
  t.equal(list.data[1].id, first.output[0].id);
  const ids = numbersOf(list);
  t.match([list.first_id, list.last_id], [ids[0], ids[2]]);
  t.same(numbersOf(await get(`${second.id}/input_items`)), [...ids].reverse(), 'the newest first');
  const page = await get(`${second.id}/input_items?order=asc&limit=1&after=${ids[0]}`);
  t.match(page, { first_id: ids[1], last_id: ids[1], has_more: true });
  t.match(await get(`${second.id}/input_items?order=asc&after=${ids[2]}`), {
    data: [],
    first_id: null,
    has_more: false,
  });
  t.same(numbersOf(await get(`${second.id}/input_items?order=asc&limit=100`)), ids);
  t.match(await get(`${second.id}/input_items?order=asc&limit=2&after=${ids[0]}`), {
    data: { length: 2 },
    last_id: ids[2],
    has_more: false,
  });
  t.match(await get(`${second.id}/input_items?after=${ids[1]}`), { data: [{ id: ids[0] }], first_id: ids[0] });
  t.equal((await get(`${second.id}/input_items?after=x`)).error.param, 'after');
  const notUnderstood = { 'include[0]': 'input_items?include[]=x', starting_after: '?starting_after=1' };
  for (const [param, path] of Object.entries({
    ...notUnderstood,
    'include[1]': '?include=reasoning.encrypted_content&include[]=x',
  }))
    t.match((await get(`${second.id}/${path}`.replace('/?', '?'))).error, { param }, path);
  for (const query of ['include[]', 'include'])
    t.equal((await get(`${second.id}?${query}=reasoning.encrypted_content`)).id, second.id, query);
  const wrongQueries = { limit: 'input_items?limit=101', order: 'input_items?order=up', stream: '?stream=yes' };
  const listOf65 = `include[]=${'x'.repeat(65)}`;
  for (const [param, path] of Object.entries({ ...wrongQueries, 'include[]': `input_items?${listOf65}` }))
    t.match((await get(`${second.id}/${path}`.replace('/?', '?'))).error, { param, code: 'invalid_request' }, path);

  t.same(await messagesOf({ input: [{ type: 'item_reference', id: ids[0] }, user('x')] }), [
    { role: 'user', content: 'one' },
    { role: 'user', content: 'x' },
  ]);
  await fetch(`${url}/${first.id}`, { method: 'DELETE' });
  const gone = await create({ previous_response_id: second.id, input: 'x' });
  t.equal(gone.error.code, 'previous_response_not_found', 'a response of the conversation is deleted');
});

t.test('the length of a conversation is bounded, and its memory is claimed', async (t) => {
  const service = await serviceOf(t, completeAnswer('ok'), 'limits: { chatBodyBytes: 4096 }');
  const { app, url, create, get, upstream } = service;
  const limits = app.limits as { growClaim: typeof app.limits.growClaim };
  const { growClaim } = limits;
  let claimed = 0;
  limits.growClaim = (claim, bytes) => {
    claimed += bytes;
    growClaim(claim, bytes);
  };
  const long = (character: string) => character.repeat(1_700);
  const first = await create({ input: long('a') });
  const second = await create({ input: long('b'), previous_response_id: first.id });
  const before = claimed;
  const third = await create({ input: long('c'), previous_response_id: second.id });
  t.ok(claimed - before > 2 * 2 * 1_700 + 1_700, 'the body, and the items before it with two bytes each');
  t.equal(third.status, 'completed');
  const calls = upstream.calls.length;
  const tooLong = (param: string) => ({ param, code: 'context_length_exceeded', type: 'invalid_request_error' });
  t.match((await create({ input: 'd', previous_response_id: third.id })).error, tooLong('previous_response_id'));

  t.equal((await postJson(url, { input: long('e').repeat(3) })).status, 413, 'a body has the same bound');

  const items = (await get(`${third.id}/input_items?order=asc`)).data;
  const ids = [items[0].id, items[2].id, items[4].id];
  const referTo = (...of: string[]) => of.map((id) => ({ type: 'item_reference', id }));
  t.match((await create({ input: referTo(...ids) })).error, tooLong('input[2].id'));
  t.match((await create({ input: referTo(items[1].id, items[3].id, items[1].id) })).error, { param: 'input[2].id' });
  const both = { input: referTo(ids[0]), previous_response_id: first.id };
  t.match((await create(both)).error, { param: 'input[0].id', message: /already has/ });
  t.equal(upstream.calls.length, calls, 'no provider call');
  t.equal((await create({ input: referTo(ids[2], ids[0]) })).status, 'completed');
  limits.growClaim = () => {
    throw app.apiError({ status: 503, code: 'overloaded', message: 'full' });
  };
  t.equal((await get(`${third.id}/input_items`)).error.code, 'overloaded', 'a list claims memory, too');
});

t.test('a list gives its memory back', async (t) => {
  const { create, url } = await serviceOf(
    t,
    completeAnswer('ok'),
    'limits: { promptBytes: 65536, chatBodyBytes: 32768 }',
  );
  const first = await create({ input: 'q'.repeat(10_000) });
  const { id } = await create({ input: 'r', previous_response_id: first.id });
  // Four of these, with two bytes a character, would have all of it.
  for (let i = 0; i < 4; i++) {
    const response = await fetch(`${url}/${id}/input_items`);
    t.equal(response.status, 200, `list ${i + 1}`);
    await response.body?.cancel();
  }
});

t.test('a request that needs many responses leaves the event loop to others between two of them', async (t) => {
  const { app, create } = await serviceOf(t, completeAnswer('ok'));
  const ids: string[] = [];
  for (let i = 0; i < 12; i++) ids.push((await create({ input: 'q', previous_response_id: ids.at(-1) ?? null })).id);
  const referTo = (id: string) => ({ type: 'item_reference', id: `${id.replace('resp', 'msg')}_0` });
  const unknown = referTo(`resp_${'A'.repeat(22)}`);
  /** Returns the number of turns of the event loop until the request is refused because of its last reference. */
  const turnsOf = async (body: object) => {
    let turns = 0;
    let isOver = false;
    const count = () => {
      turns += 1;
      if (!isOver) setImmediate(count);
    };
    setImmediate(count);
    const { statusCode } = await app.inject({ method: 'POST', url: '/v1/responses', payload: body });
    isOver = true;
    t.equal(statusCode, 404);
    return turns;
  };
  await turnsOf({ input: [unknown] });
  const alone = await turnsOf({ input: [unknown] });
  t.ok((await turnsOf({ input: [...ids.map(referTo), unknown] })) >= alone + ids.length, 'referred items');
  const previous = { previous_response_id: ids.at(-1), input: [unknown] };
  t.ok((await turnsOf(previous)) >= alone + ids.length, 'the conversation');
});

t.test('references are kept as the items that they stand for', async (t) => {
  const { create, get, messagesOf, url } = await serviceOf(t, completeAnswer('ok'));
  const first = await create({ input: 'one' });
  const [{ id }] = first.output;
  const second = await create({ input: [user('before'), { type: 'item_reference', id }, user('two')] });
  const [{ id: question }] = (await get(`${first.id}/input_items`)).data;
  const mixed = [{ id, type: null }, { id: question }, { id: 'msg_1', role: 'user', content: 'own' }];
  const untyped = await create({ input: mixed });
  const listed = (await get(`${untyped.id}/input_items?order=asc`)).data;
  t.match(listed, [
    { id, role: 'assistant' },
    { id: question, role: 'user' },
    { id: 'msg_1', role: 'user' },
  ]);
  await fetch(`${url}/${first.id}`, { method: 'DELETE' });
  const messages = [user('before'), { role: 'assistant', content: 'ok' }, user('two')];
  const answer = { role: 'assistant', content: 'ok' };
  t.same(await messagesOf({ previous_response_id: second.id, input: 'three' }), [...messages, answer, user('three')]);
  const { data } = await get(`${second.id}/input_items?order=asc`);
  t.match(data, [{ role: 'user' }, { id, role: 'assistant', content: [{ text: 'ok' }] }, { role: 'user' }]);
});

t.test('a response that still runs cannot be continued', async (t) => {
  const { create } = await serviceOf(t, unfinishedAnswer('x'));
  const { id } = await create({ input: 'q', background: true });
  t.match((await create({ previous_response_id: id, input: 'r' })).error, {
    param: 'previous_response_id',
    message: /has not ended/,
  });
});

t.test('a call that was cut off is not part of the conversation', async (t) => {
  const call = { index: 0, id: 'c0', function: { name: 'look', arguments: '{"at":' } };
  const { create, messagesOf } = await serviceOf(t, ({ response, body }) => {
    const deltas = body.includes('next')
      ? text('ok') + STOP
      : text('Let me') + chunk({ tool_calls: [call] }) + chunk({}, 'length');
    sse(response).end(deltas + DONE);
  });
  const cut = await create({ input: 'q', tools: [{ type: 'function', name: 'look' }] });
  t.match(cut, {
    status: 'incomplete',
    incomplete_details: { reason: 'max_output_tokens' },
    output: [{}, { status: 'incomplete' }],
  });
  t.same(await messagesOf({ previous_response_id: cut.id, input: 'next' }), [
    user('q'),
    { role: 'assistant', content: 'Let me' },
    user('next'),
  ]);
});

t.test('a conversation goes on after an answer that has failed', async (t) => {
  const { create, get, messagesOf } = await serviceOf(t, ({ response, body }) => {
    const call = { index: 0, id: 'c0', function: { name: 'look', arguments: '{"at":' } };
    const end = body.includes('next') ? STOP : chunk({ tool_calls: [call] }) + chunk({}, 'error');
    sse(response).end(text('Hel') + end + DONE);
  });
  const { id } = await create({ input: 'q', background: true });
  await until(async () => (await get(id)).status !== 'in_progress', 'the answer has ended');
  t.match(await get(id), { status: 'failed', output: [{ content: [{ text: 'Hel' }] }, { status: 'incomplete' }] });
  const messages = await messagesOf({ previous_response_id: id, input: 'next' });
  t.same(messages, [user('q'), { role: 'assistant', content: 'Hel' }, user('next')]);
});

t.test('input is listed as items with ids, and the text of a message as a part', async (t) => {
  const { create, get } = await serviceOf(t, completeAnswer('ok'));
  const answer = { role: 'assistant', content: 'a' };
  const call = { type: 'function_call', call_id: 'c', name: 'look', arguments: '{}' };
  const output = { type: 'function_call_output', call_id: 'c', output: 'd' };
  const { id } = await create({ input: [user('q'), answer, { ...user('r'), id: 'msg_own' }, call, output] });
  const { data } = await get(`${id}/input_items?order=asc`);
  const stream = id.replace('resp_', '');
  t.match(data, [
    { id: `msg_${stream}_i0`, type: 'message', content: [{ type: 'input_text', text: 'q' }] },
    { id: `msg_${stream}_i1`, type: 'message', content: [{ type: 'output_text', text: 'a' }] },
    { id: 'msg_own', type: 'message' },
    { ...call, id: `fc_${stream}_i3` },
    { ...output, id: `fco_${stream}_i4` },
  ]);
  const many = await create({ input: Array.from({ length: 21 }, () => user('q')) });
  t.match(await get(`${many.id}/input_items`), { data: { length: 20 }, has_more: true }, '20 by default');
  const references = data.slice(0, 2).map((item: Body) => ({ type: 'item_reference', id: item.id }));
  t.equal((await create({ input: [...references, user('s')] })).status, 'completed', 'they can be referred to');
});

t.test('the state of the provider is kept with the response, longer than with the stream', async (t) => {
  const state = { google: { thought_signature: 'S' } };
  const call = { index: 0, id: 'c0', function: { name: 'look', arguments: '{}' }, extra_content: state };
  const script: Script = ({ response, body }) => {
    const isNext = body.includes('next');
    const deltas = isNext ? text('ok') + STOP : chunk({ tool_calls: [call] }) + chunk({}, 'tool_calls');
    sse(response).end(deltas + DONE);
  };
  const { create, get, messagesOf } = await serviceOf(t, script, 'streams: { ttlMs: 1 }');
  const { id, output } = await create({ input: 'q', tools: [{ type: 'function', name: 'look' }] });
  t.equal(output.length, 1, 'it is no item unless the client asks for it');
  await until(async () => (await get(`${id}?stream=true`)).error !== undefined, 'the stream has expired');
  const results = [{ type: 'function_call_output', call_id: 'c0', output: 'next' }];
  const messages = await messagesOf({ previous_response_id: id, input: results });
  t.match(messages[1].tool_calls, [{ id: 'c0', extra_content: state }]);
});

t.test('an answer that has failed has its events also for a request that comes later', async (t) => {
  const { url, upstream } = await serviceOf(t, ({ response }) => {
    sse(response).end(text('Hel') + chunk({}, 'error') + DONE);
  });
  const ask = async () => {
    const reading = await open(url, { body: { input: 'q', stream: true }, headers: { 'idempotency-key': 'k' } });
    await reading.ended;
    return jsonsOf(reading);
  };
  const events = await ask();
  t.match(events.at(-1), { type: 'response.failed', response: { output: [{ content: [{ text: 'Hel' }] }] } });
  t.same(await ask(), events);
  t.equal(upstream.calls.length, 1);
});

t.test('another owner has no part of a response', async (t) => {
  const keys = ['a', 'b'].map((name) => `  - { name: ${name}, sha256: "${sha256(`sk-${name}`)}" }`).join('\n');
  const { create, get, url } = await serviceOf(t, completeAnswer('secret'), `keys:\n${keys}`);
  const [a, b] = [bearer('sk-a'), bearer('sk-b')];
  const { id, output } = await create({ input: 'q', background: true }, a);
  await until(async () => (await get(id, a)).status === 'completed', 'the answer has ended');
  const item = (await get(id, a)).output[0].id;
  t.same(output, []);
  const unknown = await get(`resp_${'A'.repeat(22)}`, b);
  for (const path of [id, `${id}?stream=true`, `${id}/input_items`]) t.same(await get(path, b), unknown, path);
  for (const [method, path] of [
    ['POST', '/cancel'],
    ['DELETE', ''],
  ] as const) {
    const response = await fetch(`${url}/${id}${path}`, { method, headers: b });
    t.same([response.status, await response.json()], [404, unknown], method);
  }
  t.equal((await create({ previous_response_id: id, input: 'x' }, b)).error.code, 'previous_response_not_found');
  t.equal((await create({ input: [{ type: 'item_reference', id: item }] }, b)).error.code, 'not_found');
  t.equal((await get(id, a)).status, 'completed', 'the owner still has it');
  t.equal((await fetch(`${url}/${id}`)).status, 401);
});

t.test('the same answer is a plain stream, and can be stopped there', async (t) => {
  const { url, root, upstream, get } = await serviceOf(t, unfinishedAnswer('Hel', 'lo'));
  const reading = await open(url, { body: { input: 'q', stream: true } });
  const id = String(reading.response.headers['x-sluice-stream']);
  const plain = await open(`${root}/streams/${id}`);
  await plain.until('delta');
  await fetch(`${root}/streams/${id}`, { method: 'DELETE' });
  await Promise.all([reading.ended, plain.ended]);
  t.match(plain.events.at(-1)?.json, { type: 'end', answer: 'Hello', finishReason: 'stopped' });
  const events = jsonsOf(reading);
  checkGrammar(events);
  t.match(events.at(-1), { type: 'response.incomplete', response: { id: `resp_${id}`, status: 'cancelled' } });
  t.match(await get(`resp_${id}`), { status: 'cancelled', output: [{ content: [{ text: 'Hello' }] }] });
  t.equal(upstream.calls.length, 1);
});

t.test('a reader that is cut continues behind its last event, while the answer is written and after it', async (t) => {
  const { url, upstream, app } = await serviceOf(t, ({ response }) => void sse(response).write(text('Hel')));
  const first = await open(url, { body: { input: 'q', stream: true } });
  const { json } = await untilNamed(first, 'response.output_text.delta');
  const id = `resp_${first.response.headers['x-sluice-stream']}`;
  first.cut();
  await until(() => app.responses.open === 0, 'the reader is gone');
  const early = await open(`${url}/${id}?stream=true&starting_after=1000`);
  const later = await open(`${url}/${id}?stream=true&starting_after=${json.sequence_number}`);
  (await upstream.call(1)).response.end(text('lo') + STOP + DONE);
  t.equal(await later.ended, true);
  await early.ended;
  t.same(jsonsOf(early), jsonsOf(later).slice(-1), 'an event that is not there yet: the end is sent');
  const known = jsonsOf(first);
  const events = [...known, ...jsonsOf(later)];
  checkGrammar(events);
  const whole = await open(`${url}/${id}?stream=true`);
  await whole.ended;
  t.same(jsonsOf(whole), events);
  const end = await open(`${url}/${id}?stream=true&starting_after=${events.length - 1}`);
  t.same([await end.ended, jsonsOf(end)], [true, []], 'behind the last event');
  const beyond = await fetch(`${url}/${id}?stream=true&starting_after=${events.length}`);
  t.match([beyond.status, ((await beyond.json()) as Body).error], [400, { param: 'starting_after' }], 'beyond it');
  t.equal(await metricValue(app, 'sluice_resumes_total', { outcome: 'hit' }), 5);
  t.equal(upstream.calls.length, 1);
});

/** Waits for an event with a name. */
async function untilNamed(reading: Awaited<ReturnType<typeof open>>, type: string): Promise<{ json: Body }> {
  const find = () => reading.named.find(({ event }) => event === type);
  await until(() => find() !== undefined, type);
  return find() as { json: Body };
}

t.test('store: false keeps nothing, and ends with its client', async (t) => {
  const { app, url, upstream, create } = await serviceOf(t, unfinishedAnswer('x'), 'streams: { graceMs: 600000 }');
  const streams = app.streams as { start: typeof app.streams.start };
  const { start } = streams;
  let stored: unknown = 'not asked';
  streams.start = (question, options) => {
    stored = options.stored;
    return start(question, options);
  };
  const reading = await open(url, { body: { input: 'q', stream: true, store: false } });
  await untilNamed(reading, 'response.output_text.delta');
  t.equal(stored, undefined, 'the answer is not kept');
  const id = `resp_${reading.response.headers['x-sluice-stream']}`;
  t.match(jsonsOf(reading)[0].response, { id, store: false });
  for (const path of ['', '?stream=true', '/input_items'])
    t.equal((await fetch(`${url}/${id}${path}`)).status, 404, path);
  reading.cut();
  await (await upstream.call(1)).closed;
  t.equal((await create({ input: 'x', previous_response_id: id })).error.code, 'previous_response_not_found');
});

t.test('only an answer in the background continues after the grace time', async (t) => {
  const { url, upstream, get } = await serviceOf(t, unfinishedAnswer('x'), 'streams: { graceMs: 0 }');
  /** Asks and leaves. Returns the id of the response. */
  const leave = async (fields: object) => {
    const reading = await open(url, { body: { input: 'q', stream: true, ...fields } });
    await untilNamed(reading, 'response.output_text.delta');
    reading.cut();
    return `resp_${reading.response.headers['x-sluice-stream']}`;
  };
  const id = await leave({ background: true });
  await leave({});
  const [background, foreground] = await Promise.all([upstream.call(1), upstream.call(2)]);
  await foreground.closed;
  t.equal(background.closedAt, undefined, 'the provider is still read');
  background.response.end(STOP + DONE);
  await until(async () => (await get(id)).status !== 'in_progress', 'the answer has ended');
  t.equal((await get(id)).status, 'completed');
});

t.test('an answer that is not streamed ends with its client, if it is not kept', async (t) => {
  const { url, upstream, app } = await serviceOf(t, unfinishedAnswer('x'), 'streams: { graceMs: 600000 }');
  const client = new AbortController();
  const headers = { 'content-type': 'application/json' };
  const body = JSON.stringify({ input: 'q', store: false });
  const asking = fetch(url, { method: 'POST', headers, body, signal: client.signal });
  const call = await upstream.call(1);
  client.abort();
  await t.rejects(asking);
  await call.closed;
  await until(() => app.streams.active === 0, 'nothing runs');
});

t.test('the id of the stream is in a header, however the response is asked for', async (t) => {
  const { url } = await serviceOf(t, completeAnswer('ok'));
  for (const fields of [{}, { background: true }]) {
    const response = await postJson(url, { input: 'q', ...fields });
    const { id } = (await response.json()) as Body;
    t.equal(`resp_${response.headers.get('x-sluice-stream')}`, id, JSON.stringify(fields));
  }
});

t.test('an idempotency key stands for one request', async (t) => {
  const { url, upstream, create } = await serviceOf(t, completeAnswer('ok'));
  const date = manualDate(t);
  const key = { 'idempotency-key': 'k' };
  const first = await create({ input: 'q', metadata: { a: '1' } }, key);
  date.advance(10_000);
  const again = await create({ input: 'q', metadata: { a: '1' } }, key);
  t.same(again, first);
  const streamed = await open(url, { body: { input: 'q', metadata: { a: '1' }, stream: true }, headers: key });
  await streamed.ended;
  t.same(jsonsOf(streamed).at(-1).response, first, 'also as events');
  for (const other of [
    { input: 'other' },
    { input: 'q', metadata: { a: '2' } },
    { input: 'q', metadata: { a: '1' }, store: false },
  ]) {
    t.equal((await create(other, key)).error.code, 'conflict', JSON.stringify(other));
  }
  const deleted = await fetch(`${url}/${first.id}`, { method: 'DELETE' });
  t.equal(deleted.status, 200);
  t.equal((await create({ input: 'q', metadata: { a: '1' } }, key)).id, first.id);
  t.equal((await fetch(`${url}/${first.id}`)).status, 404, 'what was deleted stays so');
  t.equal(upstream.calls.length, 1);
  const chat = { messages: [user('q')] };
  const other = await postJson(`${url.replace('responses', 'chat/completions')}`, chat, key);
  t.equal(other.status, 200, 'the same key at another route is another key');
  t.equal(upstream.calls.length, 2);
});

t.test('events expire before the response, which then has no stream', async (t) => {
  const { app, create, get } = await serviceOf(t, completeAnswer('ok'), 'streams: { ttlMs: 1 }');
  const { id } = await create({ input: 'q' });
  await until(async () => (await get(`${id}?stream=true`)).error !== undefined, 'the stream has expired').catch(
    () => {},
  );
  t.match((await get(`${id}?stream=true`)).error, { param: 'stream', message: /get it without stream/ });
  t.ok((await metricValue(app, 'sluice_resumes_total', { outcome: 'unknown' })) > 0);
  t.match(await get(id), { status: 'completed', output: [{ content: [{ text: 'ok' }] }] });
});

t.test('only a response in the background is cancelled', async (t) => {
  const { create, url } = await serviceOf(t, completeAnswer('ok'));
  const { id } = await create({ input: 'q' });
  const cancel = (init: object = {}) => fetch(`${url}/${id}/cancel`, { method: 'POST', ...init });
  t.equal((await cancel()).status, 400);
  t.equal((await cancel({ headers: { 'content-type': 'application/json' }, body: '{}' })).status, 400);
  t.equal((await fetch(`${url}/chatcmpl-1/cancel`, { method: 'POST' })).status, 404);
});

t.test('a key or a silence keeps the protocol: headers, heartbeats and the first events', async (t) => {
  const { url } = await serviceOf(t, () => {}, 'streams: { heartbeatMs: 1000 }');
  const reading = await open(url, { body: { input: 'q', stream: true, background: true } });
  t.match(reading.response.headers, {
    'content-type': /event-stream/,
    'x-accel-buffering': 'no',
    'cache-control': /no-transform/,
  });
  await untilNamed(reading, 'response.in_progress');
  t.same(
    jsonsOf(reading).map(({ type }) => type),
    ['response.created', 'response.queued', 'response.in_progress'],
  );
  await until(() => reading.comments.length > 0, 'a heartbeat');
  reading.cut();
});
