import { execFileSync } from 'node:child_process';
import { openSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import {
  type ServerProcess,
  type SystemUnderTest,
  sluiceEnv,
  startProcess,
  startSystem,
} from '../system-under-test.ts';
import { installGo, installNode, installPython } from './install.ts';

/** Sluice and what people run instead, with pinned versions and the settings that the documentation of each recommends. */

export interface Peer {
  /** Name on the command line. */
  readonly name: string;
  /** Name and version. */
  readonly title: string;
  /** A full load would take it minutes: it gets the small ones only. */
  readonly isSlow?: boolean;
  /** Returns its folder. @throws Error if it cannot be installed on this machine */
  install?(): Promise<string>;
  start(upstreamUrl: string, folder: string): Promise<SystemUnderTest>;
}

const KEY = 'sk-bench';
/** Python loads for long. */
const START_MS = 60_000;
const PROGRAMS = join(process.cwd(), 'bench/peers');

const LITELLM = '1.108.7';
const FASTAPI = '0.165.0';
const OPENAI = '3.57.0';
const PORTKEY = '1.15.2';
const GOMODEL = 'a26fbd1';

/** Starts a peer whose output goes into a file of its folder. */
function startPeer(folder: string, server: Omit<ServerProcess, 'stdio' | 'cwd'>): Promise<SystemUnderTest> {
  const log = openSync(join(folder, 'output.log'), 'w');
  return startProcess({ startMs: START_MS, ...server, cwd: folder, stdio: ['ignore', log, log] });
}

/** As the image runs it. */
const startSluice = (upstreamUrl: string) =>
  startSystem('sluice', 'dist/bundle/server.js', {
    ...sluiceEnv(upstreamUrl),
    STREAM_GRACE_MS: '0',
    MALLOC_ARENA_MAX: '1',
  });

/** The version of the AI SDK that the tests use, too. The next major version needs Node 22. */
const aiSdkVersion = () =>
  JSON.parse(readFileSync(createRequire(import.meta.url).resolve('ai/package.json'), 'utf8')).version as string;

export const PEERS: readonly Peer[] = [
  { name: 'sluice', title: 'Sluice, `/ask/stream`', start: startSluice },
  {
    name: 'sluice-v1',
    title: 'Sluice, `/v1/chat/completions`',
    start: async (upstreamUrl) => ({ ...(await startSluice(upstreamUrl)), api: 'chat', model: 'bella/bench' }),
  },
  {
    // Settings of its own comparison: docs/2026-03-23_benchmark_scripts/gateway-comparison/run-benchmark.sh
    name: 'gomodel',
    title: `GoModel ${GOMODEL} (Go)`,
    install: () => installGo('gomodel', 'https://github.com/ENTERPILOT/GoModel', GOMODEL, './cmd/gomodel'),
    async start(upstreamUrl, folder) {
      const env = {
        VLLM_BASE_URL: `${upstreamUrl}/v1`,
        VLLM_MODELS: 'bench',
        CONFIGURED_PROVIDER_MODELS_MODE: 'allowlist',
        GOMODEL_CACHE_DIR: folder,
        SQLITE_PATH: join(folder, 'gomodel.db'),
        LOGGING_ENABLED: 'false',
        USAGE_ENABLED: 'false',
        ADMIN_ENDPOINTS_ENABLED: 'false',
        ADMIN_UI_ENABLED: 'false',
        SWAGGER_ENABLED: 'false',
        GOMAXPROCS: '1',
      };
      const system = await startPeer(folder, {
        name: 'gomodel',
        command: () => [join(folder, 'bin')],
        env,
        readyPath: '/health',
      });
      return { ...system, api: 'chat', model: 'bench' };
    },
  },
  {
    // https://github.com/Portkey-AI/gateway/blob/main/docs/installation-deployments.md (Node.js). Newer versions of
    // @hono/node-server, which its range allows, make it answer 500 to every streamed answer on Node 20.
    name: 'portkey',
    title: `Portkey gateway ${PORTKEY} (Node)`,
    install: () => installNode('portkey', { '@portkey-ai/gateway': PORTKEY }, { '@hono/node-server': '1.3.3' }),
    async start(upstreamUrl, folder) {
      const script = 'node_modules/@portkey-ai/gateway/build/start-server.js';
      const system = await startPeer(folder, {
        name: 'portkey',
        command: (port) => [process.execPath, script, `--port=${port}`, '--headless'],
        env: { NODE_ENV: 'production', TRUSTED_CUSTOM_HOSTS: '127.0.0.1' },
        readyPath: '/',
      });
      const headers = {
        authorization: `Bearer ${KEY}`,
        'x-portkey-provider': 'openai',
        'x-portkey-custom-host': `${upstreamUrl}/v1`,
      };
      return { ...system, api: 'chat', model: 'bench', headers };
    },
  },
  {
    // https://ai-sdk.dev/docs/ai-sdk-core/generating-text#streamtext
    name: 'ai-sdk',
    title: `AI SDK ${aiSdkVersion()}, \`streamText\` on Node's http`,
    isSlow: true,
    start: (upstreamUrl) =>
      startSystem('ai-sdk', join(PROGRAMS, 'ai-sdk.mjs'), {
        NODE_ENV: 'production',
        UPSTREAM: `${upstreamUrl}/v1`,
      }),
  },
  {
    // https://fastapi.tiangolo.com/deployment/server-workers/ and https://uvicorn.dev/settings/: one worker on a core,
    // uvloop and httptools.
    name: 'fastapi',
    title: `FastAPI ${FASTAPI} with openai ${OPENAI} (Python)`,
    isSlow: true,
    install: () =>
      installPython('fastapi', [
        `fastapi==${FASTAPI}`,
        `openai[aiohttp]==${OPENAI}`,
        'uvicorn==0.54.0',
        'uvloop==0.23.0',
        'httptools==0.9.0',
      ]),
    start: (upstreamUrl, folder) =>
      startPeer(folder, {
        name: 'fastapi',
        command: (port) => [
          ...[join(folder, 'bin/uvicorn'), 'fastapi_openai:app', '--port', String(port), '--no-access-log'],
          ...['--loop', 'uvloop', '--http', 'httptools', '--log-level', 'warning'],
        ],
        env: { UPSTREAM: `${upstreamUrl}/v1`, PYTHONPATH: PROGRAMS, PYTHONDONTWRITEBYTECODE: '1' },
        readyPath: '/openapi.json',
      }),
  },
  {
    // https://docs.litellm.ai/docs/proxy/prod#sizing-and-workers and /docs/proxy/server_tuning: one Uvicorn worker.
    name: 'litellm',
    title: `LiteLLM ${LITELLM} proxy (Python)`,
    isSlow: true,
    install: () => installPython('litellm', [`litellm[proxy]==${LITELLM}`]),
    async start(upstreamUrl, folder) {
      const config = join(PROGRAMS, 'litellm.yaml');
      const system = await startPeer(folder, {
        name: 'litellm',
        command: (port) => [
          ...[join(folder, 'bin/python'), join(folder, 'bin/litellm'), '--config', config],
          ...['--host', '127.0.0.1', '--port', String(port), '--num_workers', '1'],
        ],
        env: {
          UPSTREAM: `${upstreamUrl}/v1`,
          LITELLM_MASTER_KEY: KEY,
          LITELLM_MODE: 'PRODUCTION',
          LITELLM_LOG: 'ERROR',
        },
        readyPath: '/health/liveliness',
      });
      return { ...system, api: 'chat', model: 'bench', headers: { authorization: `Bearer ${KEY}` } };
    },
  },
];

/** Returns the version of Python; `none` without it. */
export function pythonVersion(): string {
  try {
    return execFileSync('python3', ['--version'], { encoding: 'utf8' }).replace('Python', '').trim();
  } catch {
    return 'none';
  }
}
