import type { Api } from './client.ts';
import { median } from './report.ts';
import { type Figures, LOADS, type Load, runLoad } from './scenarios.ts';
import { sluiceEnv, startSystem } from './system-under-test.ts';
import { startUpstream } from './upstream.ts';

/**
 * `npm run bench:apis`: compares `/v1/responses` with `/v1/chat/completions`. Each load runs against one process at a time,
 * in turn, several times: the ratio of two runs that follow one another depends little on the machine.
 */

const ROUNDS = Number(process.argv[2] ?? 3);
const APIS: readonly Api[] = ['chat', 'responses'];

const upstream = await startUpstream();

async function measure(api: Api, load: Load): Promise<Figures> {
  const system = await startSystem(api, 'dist/server.js', { ...sluiceEnv(upstream.url), MAX_EVENT_LOOP_DELAY_MS: '0' });
  try {
    const subject = { ...system, api };
    await runLoad(subject, upstream, { streams: 32, tokens: 100, gapMs: 2, rampMs: 0 });
    return await runLoad(subject, upstream, load);
  } finally {
    await system.stop();
  }
}

const rows: string[] = [];
for (const [name, load] of Object.entries(LOADS)) {
  const figures: Record<string, Figures[]> = { chat: [], responses: [] };
  for (let round = 0; round < ROUNDS; round++) {
    // The order changes, so that a machine that becomes slower or faster favours neither.
    for (const api of round % 2 === 0 ? APIS : [...APIS].reverse()) figures[api]?.push(await measure(api, load));
  }
  const cell = (of: (figures: Figures) => number) => {
    const [chat, responses] = APIS.map((api) => median((figures[api] as Figures[]).map(of))) as [number, number];
    return `${chat.toFixed(1)} | ${responses.toFixed(1)} | ${(responses / chat).toFixed(2)}`;
  };
  const refused = APIS.map((api) => figures[api]?.reduce((sum, one) => sum + one.refused, 0)).join(' / ');
  rows.push(
    `| ${name} | ${refused} | ${cell((one) => one.cpuMicrosPerToken)} | ${cell((one) => one.firstTokenMs.p50)} |`,
  );
}
upstream.close();
process.stdout.write(`Node ${process.version}, median of ${ROUNDS}

| load | refused: chat / responses | CPU per token (µs): chat | responses | ratio | first token p50 (ms): chat | responses | ratio |
|---|---|---|---|---|---|---|---|
${rows.join('\n')}
`);
