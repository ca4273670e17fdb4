import type { Test } from 'tap';
import { serve, writeConfig } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { completeAnswer, startUpstream, type Upstream } from '../upstream.ts';

/** A service with `/v1/responses`, and requests to it. */

// biome-ignore lint/suspicious/noExplicitAny: bodies of every shape
export type Body = any;

export interface Service {
  readonly url: string;
  readonly upstream: Upstream;
}

/** @param more other providers, as members of a map in YAML */
export async function serviceOf(t: Test, yaml = '', more = ''): Promise<Service> {
  const upstream = await startUpstream(t, completeAnswer('ok'));
  const provider = `p: { type: openai, api: chat, baseUrl: "${upstream.url}/v1", apiKeys: [k], models: [m, other] }`;
  const providers = `providers: { ${[provider, more].filter(Boolean).join(', ')} }`;
  const { url } = await serve(t, { env: { CONFIG_FILE: writeConfig(t, `${providers}\n${yaml}`) } });
  return { url: `${url}/v1/responses`, upstream };
}

export async function ask({ url }: Service, body: object): Promise<{ status: number; body: Body }> {
  const response = await postJson(url, { model: 'p/m', ...body });
  return { status: response.status, body: await response.json() };
}

/** Asks, and returns the body that the provider got. */
export async function askedOf(service: Service, body: object): Promise<Body> {
  const { status, body: answer } = await ask(service, body);
  if (status !== 200) throw new Error(`${JSON.stringify(body)}: ${JSON.stringify(answer)}`);
  return JSON.parse(service.upstream.calls.at(-1)?.body ?? '');
}
