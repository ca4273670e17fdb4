import { readFileSync } from 'node:fs';
import t from 'tap';
import { serve } from './helper.ts';
import { noNginx, startNginx } from './nginx.ts';

/** The nginx of `deploy/` in front of one replica. */

t.test('the gateway does not pass on what is for operators', { skip: noNginx, timeout: 60_000 }, async (t) => {
  const { url: replica } = await serve(t);
  const { url } = await startNginx(t, readFileSync('deploy/nginx/nginx.conf', 'utf8'), (text) =>
    text
      .replaceAll(/sluice-\d:3000/g, new URL(replica).host)
      // The address is fixed, and the nginx of the machine may be too old for `resolve`.
      .replace(/ *(resolver|zone) .*\n/g, '')
      .replaceAll(' resolve ', ' '),
  );
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
