import { createHash } from 'node:crypto';
import { Writable } from 'node:stream';
import t from 'tap';
import { serve } from './helper.ts';
import { completeAnswer, type Script, sse, startUpstream, text } from './upstream.ts';

/** Words that are planted as key, ticket, question and upstream error, and must turn up nowhere. */

const KEY = 'CANARY-client-key';
const SECRETS = /CANARY/;

t.test('no secret in any log line, metric or error', async (t) => {
  const faults: Record<string, Script> = {
    fail: ({ response }) => void response.writeHead(500).end('{"error":{"message":"CANARY-upstream"}}'),
    refuse: ({ response }) => void response.writeHead(400).end('{"error":{"message":"CANARY-upstream"}}'),
    key: ({ response }) => void response.writeHead(401).end('{"error":{"message":"CANARY-upstream"}}'),
    limit: ({ response }) => void response.writeHead(429).end('{"error":{"message":"CANARY-upstream"}}'),
    inside: ({ response }) => void sse(response).end('data: {"error":{"message":"CANARY-upstream"}}\n\n'),
    nonsense: ({ response }) => void sse(response).end('data: CANARY-upstream\n\n'),
    cut: ({ response }) => void sse(response).end(text('CANARY-answer')),
    redirect: ({ response }) => void response.writeHead(302, { location: 'http://CANARY-upstream' }).end(),
  };
  const upstream = await startUpstream(t, (call) => {
    const name = Object.keys(faults).find((one) => call.body.includes(`do-${one}`));
    return (faults[name ?? ''] ?? completeAnswer('fine'))(call);
  });
  let log = '';
  const logTo = new Writable({
    write(bytes, _, done) {
      log += bytes;
      done();
    },
  });
  const sha256 = createHash('sha256').update(KEY).digest('hex');
  const yaml = `keys: [{ name: web, sha256: ${sha256}, requestsPerMinute: 1000 }]
providers: { it: { type: openai, baseUrl: "${upstream.url}/v1", apiKeys: [CANARY-upstream-key], models: [m] } }`;
  const env = {
    CONFIG_FILE: `${t.testdir({ 'c.yaml': yaml })}/c.yaml`,
    TICKET_SECRET: 'CANARY-secret-that-signs-all-the-tickets',
    LOG_LEVEL: 'trace',
  };
  const { url } = await serve(t, { env, logTo });

  const errors: string[] = [];
  const call = async (
    path: string,
    method = 'GET',
    body?: string,
    headers: Record<string, string> = { authorization: `Bearer ${KEY}` },
  ) => {
    const type = body === undefined ? {} : { 'content-type': 'application/json' };
    const response = await fetch(`${url}${path}`, {
      method,
      headers: { ...type, ...headers },
      ...(body !== undefined && { body }),
    });
    const said = await response.text();
    if (response.status >= 400) errors.push(said);
    errors.push(...said.split('\n').filter((line) => line.includes('"type":"error"')));
    return said;
  };
  const { ticket } = JSON.parse(await call('/tickets', 'POST', '{}')) as { ticket: string };
  for (const what of [...Object.keys(faults), 'nothing']) {
    const question = `CANARY-question do-${what}`;
    await call(`/ask/stream?question=${encodeURIComponent(question)}&system=CANARY-system`);
    await call('/ask/stream', 'POST', JSON.stringify({ question }));
    await call('/v1/chat/completions', 'POST', JSON.stringify({ messages: [{ role: 'user', content: question }] }));
    await call(
      '/ui/chat',
      'POST',
      JSON.stringify({ messages: [{ role: 'user', parts: [{ type: 'text', text: question }] }] }),
    );
    await call('/streams', 'POST', JSON.stringify({ question }));
  }
  await call(`/ask/stream?question=CANARY-question&ticket=${ticket}`, 'GET', undefined, {});
  await call('/ask/stream?question=CANARY-question&ticket=CANARY.ticket', 'GET', undefined, {});
  await call('/CANARY-path?x=CANARY');
  await call('/streams/CANARY-id');
  await call('/v1/models/CANARY-model');
  await call('/ask/stream?question=CANARY&unknown=CANARY');
  for (const body of ['{"question":"CANARY', '{"unknown":"CANARY"}', '["CANARY"]', '{"question":1,"model":"CANARY"}']) {
    for (const path of ['/ask/stream', '/streams', '/v1/chat/completions', '/ui/chat', '/tickets'])
      await call(path, 'POST', body);
  }
  const wrong = {
    authorization: 'Bearer CANARY-wrong',
    'last-event-id': 'CANARY',
    origin: 'https://CANARY.example',
    'x-request-id': 'CANARY CANARY',
  };
  await call('/ask/stream?question=CANARY', 'GET', undefined, wrong);

  const metrics = await call('/metrics');
  for (const path of ['/openapi.json', '/', '/docs', '/readyz?verbose']) t.notMatch(await call(path), SECRETS, path);
  t.ok(errors.length > 40, `${errors.length} errors`);
  t.ok(log.split('\n').length > 40, 'and as many lines');
  t.notMatch(log, SECRETS, 'log');
  t.notMatch(log, new RegExp(ticket.slice(0, 20)), 'nor a ticket');
  t.notMatch(metrics, SECRETS, 'metrics');
  for (const error of errors) t.notMatch(error, SECRETS);
});
