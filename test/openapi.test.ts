import { Validator } from '@seriousme/openapi-schema-validator';
import { Value } from '@sinclair/typebox/value';
import t from 'tap';
import { EVENTS } from '../routes/docs/events.ts';
import { OPERATIONS } from '../routes/docs/operations.ts';
import { launch, noBrowser } from './browser.ts';
import { bellaAt, build, serve } from './helper.ts';
import { readAll } from './sse-client.ts';
import { chunk, DONE, STOP, sse, startUpstream, text } from './upstream.ts';

/** The reference of the API: valid, complete, and true. */

t.test('the document is valid, and has every route', async (t) => {
  const app = await build(t);
  const document = (await app.inject('/openapi.json')).json();
  const result = await new Validator().validate(document);
  t.same(result.errors ?? [], []);
  t.equal(result.valid, true);
  const told = Object.entries(document.paths as Record<string, object>).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method} ${path}`),
  );
  t.same(told.sort(), Object.keys(OPERATIONS).sort());
  for (const [path, methods] of Object.entries(
    document.paths as Record<string, Record<string, { summary: string; responses: object }>>,
  )) {
    for (const [method, { summary, responses }] of Object.entries(methods)) {
      t.ok(summary, `${method} ${path} says what it is for`);
      t.ok(
        Object.keys(responses).some((status) => status < '300'),
        `${method} ${path} says what it answers`,
      );
    }
  }
  t.same(
    Object.keys(document.paths).filter((path) => /docs|vendor|\.(js|css)/.test(path)),
    [],
    'and files are not in it',
  );
});

t.test('events are as the document says', async (t) => {
  const upstream = await startUpstream(t, ({ body, response }) => {
    if (body.includes('fail')) return void response.writeHead(400).end();
    sse(response).write(chunk({ reasoning_content: 'hm' }) + text('x'));
    response.write(chunk({ tool_calls: [{ index: 0, id: 'c', function: { name: 'f', arguments: '{}' } }] }));
    response.end(chunk({}, 'stop', { usage: { prompt_tokens: 1, completion_tokens: 2 } }) + STOP + DONE);
  });
  const { url } = await serve(t, { env: bellaAt(upstream.url) });
  const seen = new Set<string>();
  for (const question of ['q', 'fail']) {
    for (const { json } of (await readAll(`${url}/ask/stream?question=${question}`)).events) {
      seen.add(json.type);
      t.ok(Value.Check(EVENTS.StreamEvent, json), JSON.stringify(json));
    }
  }
  t.same([...seen].sort(), ['delta', 'end', 'error', 'reasoning', 'start', 'tool_call']);
});

t.test('/docs is drawn without anything from elsewhere', { skip: noBrowser, timeout: 60_000 }, async (t) => {
  const { url } = await serve(t);
  const page = await (await launch(t)).newPage();
  const elsewhere: string[] = [];
  page.on('request', (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith('data:')) elsewhere.push(request.url());
  });
  await page.goto(`${url}/docs`);
  await page.waitForSelector('.opblock-summary-path');
  t.ok((await page.locator('.opblock').count()) >= 15);
  t.same(elsewhere, []);
});

t.test('PLAYGROUND=false: no page and no reference', async (t) => {
  const app = await build(t, { env: { PLAYGROUND: 'false' } });
  for (const path of ['/', '/docs', '/openapi.json', '/main.js'])
    t.equal((await app.inject(path)).statusCode, 404, path);
});
