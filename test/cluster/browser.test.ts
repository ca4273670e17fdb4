import t from 'tap';
import { launch, noBrowser } from '../browser.ts';
import { deltas, noCluster, numberedAnswer, startCluster, startStream } from '../cluster.ts';

/** Chromium behind the gateway of `deploy/`, while replicas die. */

interface Shown {
  seen: { text: string; ends: number };
}

const skip = noCluster || noBrowser;

t.test('Chromium: kill -9 of the serving replica, then of both', { skip }, async (t) => {
  let release = () => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  const cluster = await startCluster(t, numberedAnswer(50, 60, released));
  const browser = await launch(t);
  const stream = await startStream(cluster, 0);
  const tabs = await Promise.all(
    Array.from({ length: 4 }, async () => {
      const tab = await browser.newPage();
      await tab.goto(`${cluster.url}/livez`);
      await tab.evaluate((path) => {
        const seen = { text: '', ends: 0 };
        Object.assign(globalThis, { seen });
        new EventSource(path).onmessage = ({ data }) => {
          const event = JSON.parse(data);
          if (event.type === 'delta') seen.text += event.content;
          if (event.type === 'end') seen.ends += 1;
        };
      }, stream);
      await tab.waitForFunction(() => (globalThis as unknown as Shown).seen.text.length > 10);
      return tab;
    }),
  );
  cluster.replicas[1]?.child.kill('SIGKILL');
  release();
  const answer = deltas(50).join('');
  for (const tab of tabs) {
    await tab.waitForFunction(() => (globalThis as unknown as Shown).seen.ends === 1);
    t.equal(await tab.evaluate(() => (globalThis as unknown as Shown).seen.text), answer);
  }
  t.equal(cluster.upstream.calls.length, 1);
  cluster.replicas[0]?.child.kill('SIGKILL');
  const response = await fetch(`${cluster.url}${stream}`, { headers: { accept: 'text/event-stream' } });
  t.match([response.status, await response.text()], [200, /^retry: \d+\n\n$/], 'an EventSource never gets a 5xx');
  t.equal((await fetch(`${cluster.url}/streams`, { method: 'POST' })).status, 503, 'other clients do');
});
