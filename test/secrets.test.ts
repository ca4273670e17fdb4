import t from 'tap';
import { bearer, captureLog, serve, sha256, writeConfig } from './helper.ts';
import { completeAnswer, type Script, sse, startUpstream, text } from './upstream.ts';

/** Canary words in keys, tickets, questions and upstream errors must not appear in logs, metrics and error bodies. */

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
    const name = Object.keys(faults).find((fault) => call.body.includes(`do-${fault}`));
    return (faults[name ?? ''] ?? completeAnswer('fine'))(call);
  });
  const { logTo, log } = captureLog();
  const yaml = `keys: [{ name: web, sha256: ${sha256(KEY)}, requestsPerMinute: 1000 }]
providers: { it: { type: openai, api: chat, baseUrl: "${upstream.url}/v1", apiKeys: [CANARY-upstream-key], models: [m] } }`;
  const env = {
    CONFIG_FILE: writeConfig(t, yaml),
    TICKET_SECRET: 'CANARY-secret-that-signs-all-the-tickets',
    LOG_LEVEL: 'trace',
  };
  const { url } = await serve(t, { env, logTo });

  const errors: string[] = [];
  const call = async (path: string, method = 'GET', body?: string, headers: Record<string, string> = bearer(KEY)) => {
    const type = body === undefined ? {} : { 'content-type': 'application/json' };
    const response = await fetch(`${url}${path}`, {
      method,
      headers: { ...type, ...headers },
      ...(body !== undefined && { body }),
    });
    const answer = await response.text();
    if (response.status >= 400) errors.push(answer);
    errors.push(...answer.split('\n').filter((line) => line.includes('"type":"error"')));
    return answer;
  };
  const { ticket } = JSON.parse(await call('/tickets', 'POST', '{}')) as { ticket: string };
  for (const fault of [...Object.keys(faults), 'nothing']) {
    const question = `CANARY-question do-${fault}`;
    await call(`/ask/stream?question=${encodeURIComponent(question)}&system=CANARY-system`);
    await call('/ask/stream', 'POST', JSON.stringify({ question }));
    await call('/v1/chat/completions', 'POST', JSON.stringify({ messages: [{ role: 'user', content: question }] }));
    await call(
      '/ui/chat',
      'POST',
      JSON.stringify({ messages: [{ role: 'user', parts: [{ type: 'text', text: question }] }] }),
    );
    const messages = [{ role: 'user', content: question }];
    await call('/agui', 'POST', JSON.stringify({ threadId: 'CANARY-thread', runId: `CANARY-${fault}`, messages }));
    await call('/streams', 'POST', JSON.stringify({ question }));
  }
  await call(`/ask/stream?question=CANARY-question&ticket=${ticket}`, 'GET', undefined, {});
  await call('/ask/stream?question=CANARY-question&ticket=CANARY.ticket', 'GET', undefined, {});
  await call('/CANARY-path?x=CANARY');
  await call('/streams/CANARY-id');
  await call('/v1/models/CANARY-model');
  await call('/ask/stream?question=CANARY&unknown=CANARY');
  for (const body of ['{"question":"CANARY', '{"unknown":"CANARY"}', '["CANARY"]', '{"question":1,"model":"CANARY"}']) {
    for (const path of ['/ask/stream', '/streams', '/v1/chat/completions', '/ui/chat', '/agui', '/tickets'])
      await call(path, 'POST', body);
  }
  const invalidHeaders = {
    ...bearer('CANARY-wrong'),
    'last-event-id': 'CANARY',
    origin: 'https://CANARY.example',
    'x-request-id': 'CANARY CANARY',
  };
  await call('/ask/stream?question=CANARY', 'GET', undefined, invalidHeaders);

  const metrics = await call('/metrics');
  for (const path of ['/openapi.json', '/', '/docs', '/readyz?verbose'])
    t.notMatch(await call(path), SECRETS, `no secret in ${path}`);
  t.ok(errors.length > 40, `the requests have caused ${errors.length} errors`);
  t.ok(log().split('\n').length > 40, 'the log has more than 40 lines');
  t.notMatch(log(), SECRETS, 'no secret in the log');
  t.notMatch(log(), new RegExp(ticket.slice(0, 20)), 'no ticket in the log');
  t.notMatch(metrics, SECRETS, 'no secret in the metrics');
  for (const error of errors) t.notMatch(error, SECRETS, 'no secret in an error');
});
