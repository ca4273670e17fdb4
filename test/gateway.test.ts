import { readFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { serve } from './helper.ts';
import { type Nginx, noNginx, startNginx } from './nginx.ts';
import { freePort } from './redis.ts';

/** The nginx of `deploy/` in front of one replica. */

/** Starts the gateway in front of one address. */
const startGateway = (t: Test, replica: string): Promise<Nginx> =>
  startNginx(t, readFileSync('deploy/nginx/nginx.conf', 'utf8'), (text) =>
    text
      .replaceAll(/sluice-\d:3000/g, replica)
      // The address is fixed, and the nginx of the machine may be too old for `resolve`.
      .replace(/ *(resolver|zone) .*\n/g, '')
      .replaceAll(' resolve ', ' '),
  );

t.test('the gateway does not pass on what is for operators', { skip: noNginx, timeout: 60_000 }, async (t) => {
  const { url: replica } = await serve(t);
  const { url } = await startGateway(t, new URL(replica).host);
  const closed = ['/metrics', '/metrics/', '/%6detrics', '//metrics', '/x/../metrics', '/metrics?x', '/docs', '/docs/'];
  const closedToo = [
    '/docs/static/index.html',
    '/openapi.json',
    '/readyz?verbose',
    '/readyz/?verbose',
    '/readyz?verbose=1',
  ];
  for (const path of [...closed, ...closedToo]) {
    const response = await fetch(`${url}${path}`);
    t.equal(response.status, 404, path);
    t.match(await response.text(), 'nginx', `${path} does not reach the replica`);
  }
  for (const path of ['/', '/livez', '/readyz', '/ask/stream?question=metrics', '/ask/stream?question=/docs'])
    t.equal((await fetch(`${url}${path}`)).status, 200, path);
});

t.test('without a replica, an EventSource gets the opening block of its position', { skip: noNginx }, async (t) => {
  const { url } = await startGateway(t, `127.0.0.1:${await freePort()}`);
  const ID = `${'aB3_-'.repeat(5)}.12`;
  const END = ID.replace('12', 'end');
  const resume = (id: string) => `id: ${id}\nid: ${id}\nevent: ready\nretry: N\ndata: {}\n\n`;
  const first = 'event: ready\nid: \nevent: ready\nretry: N\ndata: {}\n\n';
  const cases: [path: string, lastEventId: string, expected: string][] = [
    ['/ask/stream?question=q', '', first],
    ['/streams/x', '', first],
    ['/ask/stream?question=q', ID, resume(ID)],
    ['/ask/stream/?question=q', END, resume(END)],
    [`/streams/x?lastEventId=${ID}`, '', resume(ID)],
    [`/ask/stream?question=q&lastEventId=${END}`, ID, resume(ID)],
    [`/ask/stream?question=q&lastEventId=${ID}`, 'not an id', first],
    ['/ask/stream?question=q&lastEventId=', '', first],
  ];
  const forged = ['a.1', `${ID}x`, `${ID} data: x`, `x ${ID}`, '<script>', `${ID}\u0085`, 'a'.repeat(65).concat('.1')];
  for (const id of forged) {
    cases.push(['/ask/stream?question=q', id, first]);
    for (const text of [encodeURIComponent(id), `${ID}%0adata:%20x`, `${ID}\\ndata`])
      cases.push([`/ask/stream?question=q&lastEventId=${text}`, '', first]);
  }
  for (const [path, lastEventId, expected] of cases) {
    const headers = { accept: 'text/event-stream', ...(lastEventId && { 'last-event-id': lastEventId }) };
    const response = await fetch(`${url}${path}`, { headers });
    t.equal(response.status, 200, path);
    t.match(response.headers.get('content-type'), 'text/event-stream');
    const body = (await response.text()).replace(/retry: (600|900|1200|1500)\n/, 'retry: N\n');
    t.equal(body, expected, `${path} with ${lastEventId}`);
  }
  for (const [path, accept] of [
    ['/ask/stream?question=q', '*/*'],
    ['/v1/models?x=/ask/stream', 'text/event-stream'],
    ['/ui/chat/x/stream', 'text/event-stream'],
  ] as const)
    t.equal((await fetch(`${url}${path}`, { headers: { accept } })).status, 503, `${path} with ${accept}`);
});
