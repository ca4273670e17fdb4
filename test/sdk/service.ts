import type { Test } from 'tap';
import { serve } from '../helper.ts';
import { bytesOf, fixtures } from '../providers/fixtures.ts';
import { type Script, startUpstream, type Upstream } from '../upstream.ts';

/** A service whose models are what a recorded or scripted upstream plays. */

export interface Service {
  /** Of the service. */
  readonly url: string;
  readonly upstream: Upstream;
}

/** `type` is the provider that reads what the upstream plays; its model is `it/m`. */
export async function serviceOf(t: Test, type: string, script: Script): Promise<Service> {
  const upstream = await startUpstream(t, script);
  const file = `providers: { it: { type: ${type}, baseUrl: "${upstream.url}/v1", apiKeys: [k], models: [m] } }`;
  const { url } = await serve(t, { env: { CONFIG_FILE: `${t.testdir({ 'c.yaml': file })}/c.yaml` } });
  return { url, upstream };
}

/** Plays a recording, in two halves. */
export function playing(file: string): Script {
  const fixture = fixtures('openai-sse', 'anthropic-sse', 'gemini-sse', 'ollama-ndjson', 'http-error').find(
    (one) => one.file === file,
  );
  if (fixture === undefined) throw new Error(`no recording ${file}`);
  const bytes = bytesOf(fixture);
  return ({ response }) => {
    response.writeHead(fixture.http_status, { 'content-type': fixture.content_type, ...fixture.headers });
    response.write(bytes.subarray(0, bytes.length / 2));
    setImmediate(() => response.end(bytes.subarray(bytes.length / 2)));
  };
}
