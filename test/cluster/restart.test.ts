import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';
import t from 'tap';
import { assertComplete, type Cluster, noCluster, type Page, readAsEventSource, startCluster } from '../cluster.ts';
import { until } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { numberedAnswer, numberedDeltas } from '../upstream.ts';

/** Replicas are restarted one after the other behind the gateway of `deploy/`, while questions are asked. */

const TOKENS = 40;
const ANSWER = numberedDeltas(TOKENS).join('');
/** Number of rolling restarts. */
const ROUNDS = Number(process.env.ROUNDS ?? 1);
/** Most answers that run at the same time for each kind of client. */
const MAX_RUNNING = 40;

/** Asks with `fetch`, again after each 503 with `Retry-After`, and returns the answer. */
async function askWithFetch(url: string, question: string): Promise<string> {
  for (let tries = 1; ; tries += 1) {
    const response = await postJson(`${url}/ask/stream`, { question });
    const retryAfter = response.headers.get('retry-after');
    if (response.status === 503 && retryAfter !== null && tries < 10) {
      await response.text();
      await sleep(Number(retryAfter) * 1_000);
      continue;
    }
    const end = /^data: (\{"type":"end".*)$/m.exec(await response.text())?.[1];
    if (end === undefined) throw new Error(`status ${response.status} and no end`);
    return JSON.parse(end).answer;
  }
}

async function isAnswering(url: string): Promise<boolean> {
  const response = await fetch(`${url}/metrics`);
  return /^sluice_generations_active [1-9]/m.test(await response.text());
}

async function askWithSdk(sdk: OpenAI, content: string): Promise<string> {
  const stream = await sdk.chat.completions.create({
    model: 'bella/gpt-4o',
    messages: [{ role: 'user', content }],
    stream: true,
  });
  let answer = '';
  for await (const { choices } of stream) answer += choices[0]?.delta.content ?? '';
  return answer;
}

t.test(
  `${ROUNDS} rolling restart(s) under load: every question has its answer, generated once`,
  { skip: noCluster, timeout: 60_000 + ROUNDS * 20_000 },
  async (t) => {
    const cluster = await startCluster(t, numberedAnswer(TOKENS, 60), { DRAIN_MS: '1000' });
    const sdk = new OpenAI({ baseURL: `${cluster.url}/v1`, apiKey: 'any' });
    const pages: Page[] = [];
    const failures: string[] = [];
    const answers: string[] = [];
    let isUnderLoad = true;

    /** Asks at most 15 questions per second, as long as the replicas are restarted. Returns their number. */
    const keepAsking = async (name: string, ask: (question: string) => Promise<unknown>) => {
      const running = new Set<Promise<void>>();
      let asked = 0;
      for (; isUnderLoad; asked++) {
        const question = `${name}-${asked}-`;
        const asking: Promise<void> = ask(question)
          .catch((error: unknown) => void failures.push(`${question}: ${error}`))
          .then(() => void running.delete(asking));
        running.add(asking);
        if (running.size >= MAX_RUNNING) await Promise.race(running);
        await sleep(66); // Paces the load.
      }
      await Promise.all(running);
      return asked;
    };
    const load = Promise.all([
      keepAsking('page', (question) => {
        const page = readAsEventSource(`${cluster.url}/ask/stream?question=${question}`);
        pages.push(page);
        return page.closed;
      }),
      keepAsking('fetch', async (question) => answers.push(await askWithFetch(cluster.url, question))),
      keepAsking('sdk', async (question) => answers.push(await askWithSdk(sdk, question))),
    ]);
    for (let restart = 0; restart < 2 * ROUNDS; restart++) {
      const index = restart % 2;
      // The gateway uses both replicas, as an operator has to wait for, and the restart interrupts answers.
      await until(
        async () => (await Promise.all(cluster.replicas.map(({ url }) => isAnswering(url)))).every(Boolean),
        'both replicas are answering',
      );
      const { child, exit } = cluster.replicas[index] as Cluster['replicas'][number];
      child.kill('SIGTERM');
      t.equal(await exit, 0, 'the replica drains and exits with code 0');
      await cluster.restart(index);
    }
    isUnderLoad = false;
    const asked = await load;

    t.same(failures, [], 'no question fails');
    t.equal(answers.filter((answer) => answer === ANSWER).length, answers.length, 'the other answers are complete');
    assertComplete(t, pages, TOKENS);
    const calls = new Map<string, number>();
    for (const { body } of cluster.upstream.calls) {
      const [question = ''] = /(page|fetch|sdk)-\d+-/.exec(body) ?? [];
      calls.set(question, (calls.get(question) ?? 0) + 1);
    }
    const repeated = [...calls].filter(([, count]) => count !== 1);
    t.same(repeated, [], 'no question calls the upstream twice');
    t.equal(
      calls.size,
      asked.reduce((sum, count) => sum + count, 0),
      'every question calls the upstream',
    );
    t.ok(
      pages.some(({ reconnects }) => reconnects > 1),
      'some readers have reconnected',
    );
    t.comment(`${asked.join(' + ')} questions`);
    t.match(cluster.gatewayLog(), /GET \/ask\/stream/, 'the gateway logs requests');
    t.notMatch(cluster.gatewayLog(), /question/, 'the gateway does not log the query string');
  },
);
