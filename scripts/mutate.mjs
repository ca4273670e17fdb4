import { Stryker } from '@stryker-mutator/core';

/**
 * Mutation testing: puts single faults into one part of the core after another, and runs the tests that can see
 * them. Usage: `npm run mutate [part…]`. Writes a report of each part to `reports/mutation/`; the faults that no
 * test notices are in it. Later runs test only what has changed. See docs/testing.md.
 */

/** Files of the connections to Redis, and small parts of the store in it. */
const TOPOLOGY = [
  'plugins/redis/{clients,node-changes,shard-subscriber,subscriber,read-queue,health,problems}.ts',
  'plugins/streams/redis/{links,keys,format}.ts',
  'plugins/streams/redis/producer/commit-group.ts',
];

/**
 * Files of each part, the tests that see them, and the least score in percent. A test file runs for every fault
 * in what it executes, so only quick files are listed.
 */
const PARTS = {
  llm: { mutate: ['plugins/llm/*.ts', 'plugins/config/model-routes.ts'], tests: ['llm/*'], least: 85 },
  limits: { mutate: ['plugins/limits/*.ts'], tests: ['limits/limits', 'limits/replicas'], least: 85 },
  auth: { mutate: ['plugins/auth/*.ts'], tests: ['auth/keys', 'auth/tickets', 'auth/jwt'], least: 85 },
  'memory-store': {
    mutate: ['plugins/streams/memory/*.ts', 'plugins/streams/units.ts'],
    tests: ['streams/segments', 'streams/memory-log', 'streams/memory-store'],
    least: 85,
  },
  generations: {
    mutate: ['plugins/streams/{admission,fingerprint,generation,index,lifetime,start-generation,terminals}.ts'],
    tests: ['streams/start', 'streams/ends'],
    least: 85,
  },
  'redis-store': {
    mutate: [
      'plugins/streams/redis/**/*.ts',
      'plugins/redis/*.ts',
      'plugins/streams/takeover.ts',
      ...TOPOLOGY.map((file) => `!${file}`),
    ],
    tests: [
      'plugins/redis-connection',
      'plugins/redis-mailbox',
      'plugins/redis-lease',
      'plugins/redis-cluster',
      'streams/takeover-handler',
      'streams/stream-commands',
      'streams/replica-watcher',
      'streams/redis-writer',
      'streams/producer-writes',
      'streams/remote-readers',
      'streams/replica-copies',
    ],
    least: 75,
  },
  responses: {
    mutate: ['routes/responses/*.ts'],
    tests: ['responses/{events,text-memory,values,requests,stored}', 'sdk/responses'],
    least: 75,
  },
  routes: {
    mutate: ['routes/{start-stream,reconnection,provider-state}.ts', 'routes/v1/answer.ts'],
    tests: ['routes/{start-stream,sse-events,v1-answer,provider-state}'],
    least: 75,
  },
  decoders: {
    mutate: [
      'providers/ollama.ts',
      'providers/wire/{openai-chat,anthropic-stream,gemini-stream,sse,ndjson,json,tool-calls,parts,read-answer}.ts',
      'providers/wire/{finish-reason,counts,openai-usage,in-band-error,error-class,retry-delay,status-error}.ts',
      'providers/wire/{event-parser,network-error,api-keys,answer-end,openai-content,openai-state}.ts',
      'providers/wire/{responses-stream,responses-items,refusal-reason,refusal-param}.ts',
    ],
    tests: [
      'providers/{api-keys,part-buffer,status-errors,finish-reasons,usage,in-band-errors}',
      'providers/{content,tool-calls,ollama-request,sse-framing,release,states,chat-state}',
      'providers/{responses-stream,refusals,event-parser}',
    ],
    least: 75,
  },
  load: {
    mutate: ['plugins/load/*.ts'],
    tests: ['plugins/{read-interval,work-shares,event-loop-delay,load-plugin}'],
    least: 85,
  },
  sse: {
    mutate: ['plugins/sse/*.ts'],
    tests: ['plugins/{sse-writer,sse-plugin,rotation-spread}'],
    least: 75,
  },
  webhooks: {
    mutate: ['plugins/webhooks/*.ts', 'plugins/responses/*.ts'],
    tests: ['stored-responses/{memory,plugin,webhooks,redis-store,long-answers}'],
    least: 75,
  },
  'redis-topology': {
    mutate: TOPOLOGY,
    tests: [
      'plugins/{node-changes,shard-subscriber,redis-reads,redis-problems,redis-clients}',
      'streams/{commit-group,links}',
    ],
    least: 75,
  },
};

// As in .taprc: tap does not load its TypeScript compiler into every test process.
process.env.TAP_TYPE_STRIP_ONLY = '1';

const chosen = process.argv.slice(2);
const unknown = chosen.filter((name) => !(name in PARTS));
if (unknown.length > 0) {
  process.stderr.write(`Unknown part: ${unknown.join(', ')}. Parts: ${Object.keys(PARTS).join(', ')}.\n`);
  process.exit(2);
}

for (const [name, { mutate, tests, least }] of Object.entries(PARTS)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue;
  const folder = `reports/mutation/${name}`;
  const results = await new Stryker({
    testRunner: 'tap',
    tap: {
      testFiles: tests.map((file) => `build/test/${file}.test.js`),
      nodeArgs: ['--import=./test/no-hooks.mjs'],
      forceBail: true,
    },
    // Stryker links the packages only after the build, which runs the compiler from there.
    buildCommand: 'npm run build:mutate',
    symlinkNodeModules: false,
    mutate,
    ignorePatterns: ['/.tap', '/reports', '/dist', '/build'],
    checkers: [],
    coverageAnalysis: 'perTest',
    concurrency: 2,
    timeoutMS: 10_000,
    timeoutFactor: 2,
    incremental: true,
    incrementalFile: `${folder}/incremental.json`,
    reporters: ['clear-text', 'html', 'json'],
    clearTextReporter: { allowColor: false, logTests: false, reportTests: false },
    htmlReporter: { fileName: `${folder}/report.html` },
    jsonReporter: { fileName: `${folder}/report.json` },
    tempDirName: 'reports/.stryker-tmp',
    allowConsoleColors: false,
  }).runMutationTest();
  const noticed = results.filter(({ status }) => status === 'Killed' || status === 'Timeout').length;
  const counted = results.filter(({ status }) => !['Ignored', 'CompileError', 'RuntimeError'].includes(status)).length;
  const score = (100 * noticed) / counted;
  process.stdout.write(`${name}: ${score.toFixed(1)} % of ${counted} faults noticed; at least ${least} %\n`);
  if (score < least) process.exitCode = 1;
}
