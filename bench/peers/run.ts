import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { pinLoad, type SystemUnderTest } from '../system-under-test.ts';
import { startUpstream } from '../upstream.ts';
import { comparePeers, LOADS, SLOW_LOADS } from './compare.ts';
import { PEERS, type Peer, pythonVersion } from './list.ts';
import { peersMarkdown } from './report.ts';

/**
 * `npm run bench:peers [-- <peer>…]`: compares Sluice with what people run instead, each alone on one core. Installs
 * what is missing. The first row has no peer: its figures are those of the load and the upstream themselves.
 */

const names = process.argv.slice(2);
const unknown = names.filter((name) => !PEERS.some((peer) => peer.name === name));
if (unknown.length > 0) {
  process.stderr.write(`unknown: ${unknown.join(', ')}; peers: ${PEERS.map(({ name }) => name).join(', ')}\n`);
  process.exit(2);
}

const NO_PEER: Peer = {
  name: 'none',
  title: 'none: the load asks the upstream',
  start: async (url): Promise<SystemUnderTest> => ({
    name: 'none',
    url,
    api: 'chat',
    cpuSeconds: () => Number.NaN,
    waitSeconds: () => Number.NaN,
    rssBytes: () => Number.NaN,
    descriptors: () => Number.NaN,
    heapBytes: async () => Number.NaN,
    stop: async () => {},
  }),
};

const startedAt = performance.now();
const logProgress = (step: string) =>
  process.stderr.write(`${((performance.now() - startedAt) / 1_000).toFixed(0)} s  ${step}\n`);

pinLoad();
const upstream = await startUpstream();
const chosen = PEERS.filter(({ name }) => names.length === 0 || names.includes(name));
const loadsOf = ({ isSlow }: Peer) => (isSlow ? SLOW_LOADS : LOADS);
const comparison = await comparePeers([NO_PEER, ...chosen], upstream, loadsOf, logProgress);
upstream.close();

const [cpu] = cpus();
const results = {
  date: new Date().toISOString().slice(0, 10),
  node: process.version,
  python: pythonVersion(),
  cores: cpus().length,
  cpu: cpu?.model.trim() ?? 'unknown',
  ...comparison,
};
writeFileSync('bench/peers/results.json', `${JSON.stringify(results, null, 2)}\n`);
process.stdout.write(`${peersMarkdown(results)}\n`);
