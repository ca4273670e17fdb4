import type { IncomingMessage } from 'node:http';
import t from 'tap';
import { noCluster, startCluster, startStream } from '../cluster.ts';
import { deferred, until } from '../helper.ts';
import { startSite } from '../site.ts';
import { numberedAnswer, numberedDeltas } from '../upstream.ts';
import { chromium, firefox, webkit } from './launch.ts';

/** The EventSource of real browsers, while a replica behind nginx is killed. */

const DELTAS = 40;
/** EventSources of each page: nginx sends them to the replicas in turns. */
const SOURCES = 4;

/** A page that reads one stream several times, and reports when all have some text, and when all have ended. */
const pageOf = (url: string, name: string) => `<!doctype html><title>${name}</title><script>
const report = (path, body) => fetch(path + '?browser=${name}', { method: 'POST', body: JSON.stringify(body) });
const errors = [];
addEventListener('error', ({ message }) => errors.push(message));
const texts = Array(${SOURCES}).fill('');
let ended = 0;
let isReading = false;
texts.forEach((_, i) => {
  const source = new EventSource('${url}');
  source.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    if (event.type === 'delta') texts[i] += event.content;
    if (!isReading && texts.every(Boolean)) isReading = report('/reading', {});
    if (event.type !== 'end' && event.type !== 'error') return;
    source.close();
    if (event.answer !== texts[i]) errors.push('the answer of ' + event.type + ' differs from the text');
    if (++ended === ${SOURCES}) report('/ended', { texts, errors });
  };
  source.onerror = () => source.readyState === EventSource.CLOSED && errors.push('CLOSED');
});
</script>`;

const browsers = [chromium, firefox, webkit].filter(({ missing }) => !missing);
for (const { name, missing } of [chromium, firefox, webkit]) {
  if (missing) t.test(`${name}: kill -9 of the serving replica`, { skip: missing }, async () => {});
}

t.test(
  'kill -9 of the serving replica: the EventSource of each browser gets the exact text',
  {
    skip: noCluster || (browsers.length === 0 && 'no browser'),
    timeout: 120_000,
  },
  async (t) => {
    const { promise, resolve: release } = deferred();
    const cluster = await startCluster(t, numberedAnswer(DELTAS, 5, promise), { CORS_ORIGINS: '*' });
    const path = await startStream(cluster, 0);
    const reading = new Set<string>();
    const reports = new Map<string, { texts: string[]; errors: string[] }>();
    const nameOf = ({ url = '' }: IncomingMessage) => url.split('?browser=')[1] ?? '';
    const site = await startSite(t, cluster.url, {
      ...Object.fromEntries(browsers.map(({ name }) => [`/${name}`, pageOf(cluster.url + path, name)])),
      '/reading'(request, response) {
        reading.add(nameOf(request));
        response.end();
      },
      async '/ended'(request, response) {
        let body = '';
        for await (const bytes of request.setEncoding('utf8')) body += bytes;
        reports.set(nameOf(request), JSON.parse(body));
        response.end();
      },
    });
    await Promise.all(browsers.map((browser) => browser.open(t, `${site.url}/${browser.name}`)));
    await until(() => reading.size === browsers.length, 'every page reads', 60_000);
    cluster.replicas[1]?.child.kill('SIGKILL');
    await cluster.replicas[1]?.exit;
    release();
    await until(() => reports.size === browsers.length, 'every page has ended', 60_000);
    const answer = numberedDeltas(DELTAS).join('');
    for (const { name } of browsers) {
      t.same(reports.get(name), { texts: Array(SOURCES).fill(answer), errors: [] }, name);
    }
    t.equal(cluster.upstream.calls.length, 1, 'one provider call');
    const requests = cluster.gatewayLog().split(`GET ${path}`).length - 1;
    t.ok(requests > SOURCES * browsers.length, `${SOURCES * browsers.length} readers in ${requests} connections`);
  },
);
