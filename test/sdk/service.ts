import type { Test } from 'tap';
import { serve, writeConfig } from '../helper.ts';
import { bytesOf, fixtures } from '../providers/fixtures.ts';
import { type Script, startUpstream, type Upstream } from '../upstream.ts';
import type { StrictUpstream } from './strict-upstreams.ts';

/** A service with one provider, and the upstream of that provider. */

export interface Service {
  /** Base URL of the service. */
  readonly url: string;
  readonly upstream: Upstream;
}

/** Starts a service with a provider of a type. Its upstream plays the script; its model is `p/m`. */
export async function serveProvider(t: Test, type: string, script: Script): Promise<Service> {
  const upstream = await startUpstream(t, script);
  const yaml = `providers: { p: { type: ${type}, ${type === 'openai' ? 'api: chat, ' : ''}baseUrl: "${upstream.url}/v1", apiKeys: [k], models: [m] } }`;
  const { url } = await serve(t, { env: { CONFIG_FILE: writeConfig(t, yaml) } });
  return { url, upstream };
}

/** Plays a recording in two halves. */
export function playRecording(file: string): Script {
  const fixture = fixtures('openai-sse', 'anthropic-sse', 'gemini-sse', 'ollama-ndjson', 'http-error').find(
    (recording) => recording.file === file,
  );
  if (fixture === undefined) throw new Error(`no recording ${file}`);
  const bytes = bytesOf(fixture);
  return ({ response }) => {
    response.writeHead(fixture.http_status, { 'content-type': fixture.content_type, ...fixture.headers });
    response.write(bytes.subarray(0, bytes.length / 2));
    setImmediate(() => response.end(bytes.subarray(bytes.length / 2)));
  };
}

export interface Served {
  readonly url: string;
  readonly upstreams: readonly Upstream[];
}

/** Serves one model, `weather`, whose targets are these upstreams in this order. */
export async function serveTargets(
  t: Test,
  targets: readonly StrictUpstream[],
  { env = {}, upstreams }: { env?: Record<string, string>; upstreams?: readonly Upstream[] } = {},
): Promise<Served> {
  const started = upstreams ?? (await Promise.all(targets.map(({ script }) => startUpstream(t, script))));
  const providers = targets.map(({ type, path }, i) => [
    `${type}-${i}`,
    { type, baseUrl: `${started[i]?.url}${path}`, apiKeys: ['k'] },
  ]);
  const config = {
    providers: Object.fromEntries(providers),
    models: [{ name: 'weather', targets: targets.map(({ type, model }, i) => ({ provider: `${type}-${i}`, model })) }],
  };
  const { url } = await serve(t, { env: { CONFIG_FILE: writeConfig(t, JSON.stringify(config)), ...env } });
  return { url, upstreams: started };
}
