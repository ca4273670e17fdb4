import t from 'tap';
import { serve, writeConfig } from '../helper.ts';
import { postJson } from '../post-json.ts';
import { completeAnswer, startUpstream } from '../upstream.ts';

/** Tests the operator's settings of providers and models, from the file to the request of the provider. */

const MESSAGES = [{ role: 'user', content: 'q' }];

/** Asks through a service with this configuration. Returns the status and what the provider got. */
async function ask(t: Parameters<typeof serve>[0], config: (url: string) => object, options: object = {}) {
  const upstream = await startUpstream(t, completeAnswer('x'));
  const file = writeConfig(t, JSON.stringify(config(upstream.url)));
  const { url } = await serve(t, { env: { CONFIG_FILE: file } });
  const response = await postJson(`${url}/v1/chat/completions`, { model: 'm', messages: MESSAGES, ...options });
  const [call] = upstream.calls;
  return {
    status: response.status,
    error: ((await response.json()) as { error?: { message: string; param: string } }).error,
    path: call?.request.url,
    headers: call?.request.headers ?? {},
    body: JSON.parse(call?.body ?? '{}') as Record<string, unknown>,
  };
}

const configOf =
  (type: string, provider: object, model: object = {}) =>
  (url: string) => ({
    providers: { p: { type, baseUrl: url, apiKeys: ['k'], ...provider } },
    models: [{ name: 'm', targets: [{ provider: 'p', model: 'up' }], ...model }],
  });

t.test('defaults, drop and forward of the provider and of the model change the options', async (t) => {
  const provider = { defaults: { top_p: 0.1, seed: 1 }, drop: ['user'] };
  const model = { defaults: { seed: 2, max_tokens: 9 }, drop: ['temperature'] };
  const { body } = await ask(t, configOf('vllm', provider, model), { temperature: 1, user: 'u', top_k: 3 });
  t.match(body, { top_p: 0.1, seed: 2, max_tokens: 9, top_k: 3 });
  for (const name of ['temperature', 'user']) t.notOk(name in body, name);
});

t.test('model options of Ollama come from the configuration', async (t) => {
  const { body } = await ask(t, configOf('ollama', { defaults: { num_ctx: 16_384 } }));
  t.match(body.options, { num_ctx: 16_384 });
});

t.test('an option that an API is not known to have is refused, unless the operator forwards it', async (t) => {
  const option = { an_unknown_option: 1 };
  const refused = await ask(t, configOf('anthropic', {}), option);
  t.equal(refused.status, 400);
  t.match(refused.error, { message: /^The model m does not support an_unknown_option;/, param: 'an_unknown_option' });
  t.equal(refused.path, undefined, 'nobody is asked');
  const { body } = await ask(t, configOf('anthropic', { forward: ['an_unknown_option'] }), option);
  t.match(body, option);
  const known = await ask(t, configOf('anthropic', { forward: ['logit_bias'] }), { logit_bias: { 1: 2 } });
  t.match(known.body, { logit_bias: { 1: 2 } }, 'also one that is known to be unfit');
});

t.test('headers of the provider are sent with every call, beside its key', async (t) => {
  const { headers } = await ask(t, configOf('vllm', { headers: { 'X-Team': 'blue', 'anthropic-beta': 'b' } }));
  t.match(headers, { 'x-team': 'blue', 'anthropic-beta': 'b', authorization: 'Bearer k' });
});

t.test('`api` selects the API', async (t) => {
  t.equal((await ask(t, configOf('openai', {}))).path, '/v1/responses');
  t.equal((await ask(t, configOf('openai', { api: 'chat' }))).path, '/v1/chat/completions');
  t.equal((await ask(t, configOf('vllm', { api: 'responses' }))).path, '/responses');
  t.equal((await ask(t, configOf('vllm', {}))).path, '/chat/completions');
});

t.test('`sampling` overrides the rule of a Claude model', async (t) => {
  const options = { temperature: 0.5, top_p: 0.6 };
  const sent = async (sampling?: string) => {
    const { temperature, top_p } = (await ask(t, configOf('anthropic', sampling ? { sampling } : {}), options)).body;
    return [temperature, top_p];
  };
  t.same(await sent(), [undefined, undefined], 'an unknown name');
  t.same(await sent('both'), [0.5, 0.6]);
  t.same(await sent('one'), [0.5, undefined]);
});
