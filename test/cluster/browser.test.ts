import t from 'tap';
import { launch, noBrowser } from '../browser.ts';
import { noCluster, startCluster, startStream } from '../cluster.ts';
import { deferred } from '../helper.ts';
import { numberedAnswer, numberedDeltas } from '../upstream.ts';

/** An EventSource of Chromium reads through the gateway of `deploy/` while replicas are killed. */

/** Variables of the page. */
interface PageGlobals {
  received: { text: string; ends: number };
}

const skip = noCluster || noBrowser;

t.test('Chromium resumes after kill -9 of a replica and gets no 5xx when none is left', { skip }, async (t) => {
  const release = deferred();
  const cluster = await startCluster(t, numberedAnswer(50, 60, release.promise));
  const browser = await launch(t);
  const stream = await startStream(cluster, 0);
  const tabs = await Promise.all(
    Array.from({ length: 4 }, async () => {
      const tab = await browser.newPage();
      await tab.goto(`${cluster.url}/livez`);
      await tab.evaluate((path) => {
        const received = { text: '', ends: 0 };
        Object.assign(globalThis, { received });
        new EventSource(path).onmessage = ({ data }) => {
          const event = JSON.parse(data);
          if (event.type === 'delta') received.text += event.content;
          if (event.type === 'end') received.ends += 1;
        };
      }, stream);
      await tab.waitForFunction(() => (globalThis as unknown as PageGlobals).received.text.length > 10);
      return tab;
    }),
  );
  cluster.replicas[1]?.child.kill('SIGKILL');
  release.resolve();
  const answer = numberedDeltas(50).join('');
  for (const tab of tabs) {
    await tab.waitForFunction(() => (globalThis as unknown as PageGlobals).received.ends === 1);
    const text = await tab.evaluate(() => (globalThis as unknown as PageGlobals).received.text);
    t.equal(text, answer, 'every tab has the complete answer, once');
  }
  t.equal(cluster.upstream.calls.length, 1, 'one upstream call serves all tabs');
  cluster.replicas[0]?.child.kill('SIGKILL');
  const response = await fetch(`${cluster.url}${stream}`, { headers: { accept: 'text/event-stream' } });
  t.match(
    [response.status, await response.text()],
    [200, /^event: ready\nid: \nevent: ready\nretry: \d+\ndata: \{\}\n\n$/],
    'without replicas, EventSource gets 200',
  );
  const other = await fetch(`${cluster.url}/streams`, { method: 'POST' });
  t.equal(other.status, 503, 'without replicas, other clients get 503');
});
