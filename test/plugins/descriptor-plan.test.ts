import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import t from 'tap';
import { planDescriptors, readOpenFileLimit } from '../../plugins/descriptors.ts';
import { captureLog, serve, until, writeConfig } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { rawUpstream } from '../raw-upstream.ts';
import { DONE, STOP, text } from '../upstream.ts';

const LIMITS = [128, 256, 400, 512, 1_024, 4_096, 20_000, 65_536, 1_048_576];
/** A complete answer on a connection that stays open. */
const body = text('word') + STOP + DONE;
const answer = `HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nKeep-Alive: timeout=600\r\nContent-Length: ${body.length}\r\n\r\n${body}`;

/** Descriptors that no part of the plan may use: those of Node.js, Redis, DNS and the log. */
const RESERVED = 64;

t.test('the parts of a plan never exceed the limit, and every generation has a client and an upstream', async (t) => {
  for (const limit of LIMITS) {
    for (const maxGenerations of [1, 50, 10_000, 1_000_000]) {
      for (const listenSockets of [1, 32, 256]) {
        const plan = planDescriptors(limit, { maxGenerations, listenSockets });
        const what = `${limit} files, ${maxGenerations} generations, ${listenSockets} sockets: ${JSON.stringify(plan)}`;
        const listening = 2 * plan.listenSockets; // A host name may have two addresses.
        const used = RESERVED + listening + plan.maxConnections + plan.maxUpstreamSockets + plan.maxFileResponses;
        t.ok(used <= limit, what);
        t.ok(
          Object.values(plan).every((count) => Number.isInteger(count) && count >= 1),
          what,
        );
        t.ok(plan.maxGenerations <= maxGenerations && plan.listenSockets <= listenSockets, what);
        t.ok(plan.maxUpstreamSockets > plan.maxGenerations && plan.maxRequests > plan.maxGenerations, what);
        const spare = plan.maxConnections - plan.maxRequests;
        t.ok(spare >= 16 + 2 * plan.listenSockets, `room for a turn of new connections; ${what}`);
      }
    }
  }
});

t.test(
  'a cluster of Redis gets room for its connections: two to each primary, one more, and those of a failover',
  async (t) => {
    for (const limit of LIMITS) {
      const needs = { maxGenerations: 1_000_000, listenSockets: 32 };
      const without = planDescriptors(limit, needs);
      const plan = planDescriptors(limit, { ...needs, hasRedisCluster: true });
      const room = without.maxConnections + without.maxUpstreamSockets - plan.maxConnections - plan.maxUpstreamSockets;
      const primaries = limit >= 2_048 ? 60 : limit / 20;
      t.ok(room >= 2 * primaries + 1, `${limit} files: room for ${room} connections`);
      t.ok(plan.maxRequests > plan.maxGenerations, 'every generation has a client');
    }
  },
);

t.test('a limit that is high enough lowers nothing, and the rest is for clients', async (t) => {
  const plan = planDescriptors(65_536, { maxGenerations: 10_000, listenSockets: 32 });
  t.match(plan, { maxGenerations: 10_000, listenSockets: 32 });
  t.ok(plan.maxRequests > 45_000);
});

t.test('half of a low limit is for generations', async (t) => {
  const generations = (limit: number) =>
    planDescriptors(limit, { maxGenerations: 10_000, listenSockets: 32 }).maxGenerations;
  t.same([256, 512, 1_024, 20_000].map(generations), [71, 180, 399, 9_019]);
});

t.test('docs/operations.md has the figures of the plan', async (t) => {
  const [, table = ''] =
    /^\| limit \| generations at most.*\n.*\n((?:\|.*\n)+)/m.exec(readFileSync('docs/operations.md', 'utf8')) ?? [];
  const rows = table
    .trim()
    .split('\n')
    .map(
      (row) =>
        row
          .replace(/,|\(.*?\)/g, '')
          .match(/\d+/g)
          ?.map(Number) ?? [],
    );
  t.equal(rows.length, 5);
  for (const [limit = 0, ...figures] of rows) {
    const plan = planDescriptors(limit, { maxGenerations: 10_000, listenSockets: 32 });
    t.same(figures, [plan.maxGenerations, plan.maxRequests, plan.maxConnections], `${limit} open files`);
  }
});

t.test('the limit is that of the process; a system that does not tell has none', async (t) => {
  const limit = execFileSync('sh', ['-c', 'ulimit -n'], { encoding: 'utf8' }).trim();
  const expected = process.platform === 'linux' ? Number(limit) : Number.POSITIVE_INFINITY;
  t.equal(readOpenFileLimit(), expected);
  const file = t.testdir({ unlimited: 'Max open files            unlimited            unlimited            files\n' });
  for (const path of ['/nonexistent', `${file}/unlimited`])
    t.equal(readOpenFileLimit(path), Number.POSITIVE_INFINITY, path);
  const needs = { maxGenerations: 10_000, listenSockets: 32 };
  t.match(planDescriptors(Number.POSITIVE_INFINITY, needs), { ...needs, maxConnections: Number.POSITIVE_INFINITY });
});

t.test('idle connections to one provider make room for calls of another', async (t) => {
  const openFileLimit = 128;
  const { maxGenerations, maxUpstreamSockets } = planDescriptors(openFileLimit, {
    maxGenerations: 10_000,
    listenSockets: 32,
  });
  const held: Socket[] = [];
  const provider = () => rawUpstream(t, (socket) => held.push(socket));
  const [a, b] = [await provider(), await provider()];
  const CONFIG_FILE = writeConfig(
    t,
    `
providers:
  a: { type: openai-compatible, baseUrl: ${a.url}, models: [m] }
  b: { type: openai-compatible, baseUrl: ${b.url}, models: [m] }
defaultModel: a/m
`,
  );
  const { url } = await serve(t, { openFileLimit, env: { CONFIG_FILE } });
  const askAll = async (model: string) => {
    const asked = Array.from({ length: maxGenerations }, () => postJson(`${url}/ask/stream`, { question: 'q', model }));
    await until(() => held.length === maxGenerations, 'every question calls the provider');
    for (const socket of held.splice(0)) socket.write(answer);
    for (const response of await Promise.all(asked)) t.match(await response.text(), /"type":"end"/);
  };
  await askAll('a/m');
  t.equal(a.open.size, maxGenerations, 'the connections stay open');
  await askAll('b/m');
  await until(() => a.open.size + b.open.size <= maxUpstreamSockets, 'the bound holds');
});

t.test('one line at the start says that MAX_GENERATIONS is lowered, with the figures', async (t) => {
  for (const [openFileLimit, lines] of [
    [256, 1],
    [1_048_576, 0],
  ] as const) {
    const { logTo, log } = captureLog();
    await serve(t, { logTo, openFileLimit, env: { MAX_GENERATIONS: '500' } });
    const lowered = log().match(/.*MAX_GENERATIONS lowered.*/g) ?? [];
    t.equal(lowered.length, lines, `${openFileLimit} open files`);
    for (const line of lowered)
      t.match(JSON.parse(line), { level: 40, openFileLimit, configured: 500, maxGenerations: 71, msg: /ulimit -n/ });
  }
});

t.test('the plan of a service knows whether Redis is a cluster', async (t) => {
  const generationsOf = async (redisUrl: string) => {
    const { logTo, log } = captureLog();
    await serve(t, { env: { DEMO: 'true', REDIS_URL: redisUrl }, openFileLimit: 1_024, logTo });
    return Number(/"maxGenerations":(\d+)/.exec(log())?.[1]);
  };
  const [single, cluster] = await Promise.all(
    ['redis', 'redis+cluster'].map((it) => generationsOf(`${it}://127.0.0.1:1`)),
  );
  t.equal(single, 399);
  t.ok(Number(cluster) < 399);
});
