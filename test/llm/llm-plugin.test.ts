import { setImmediate as turn } from 'node:timers/promises';
import Fastify, { type FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import { Registry } from 'prom-client';
import t, { type Test } from 'tap';
import type { Config } from '../../plugins/config/index.ts';
import type { ModelSettings, Target } from '../../plugins/config/model-routes.ts';
import llm from '../../plugins/llm/index.ts';
import { upstreamMetrics } from '../../plugins/metrics/upstreams.ts';
import { NO_SPAN } from '../../plugins/tracing/no-span.ts';
import { manualClock } from '../manual-clock.ts';
import { ANSWER, type FakeProvider, fake, fault } from './fake-provider.ts';

/** Tests `fastify.llm` on a bare Fastify, with stubs of the plugins that it depends on. */

const SETTINGS: ModelSettings = {
  models: [
    { name: 'fast', targets: [{ provider: 'a', model: 'm' }] },
    {
      name: 'both',
      targets: [
        { provider: 'a', model: 'm' },
        { provider: 'b', model: 'n' },
      ],
    },
  ],
  providers: { a: { type: 'demo', maxConcurrent: 1 }, b: { type: 'demo' } },
  deadlines: { connectMs: 1, headersMs: 1, firstTokenMs: 1_000, idleMs: 1_000, thinkingMs: 1_000, totalMs: 1_000 },
};

interface Service {
  readonly app: FastifyInstance;
  metricsText(): Promise<string>;
  reload(settings: Partial<ModelSettings>): void;
}

async function start(t: Test, settings: ModelSettings, providers: FakeProvider[]): Promise<Service> {
  const app = Fastify();
  t.teardown(() => app.close());
  const listeners: ((next: Config) => void)[] = [];
  const registry = new Registry();
  const stubs: Record<string, object> = {
    config: { onConfigReload: (listener: (next: Config) => void) => void listeners.push(listener) },
    providers: { providers: new Map(providers.map((provider) => [provider.name, provider])) },
    // Only the model `m` has a price.
    prices: { prices: { find: ({ model }: Target) => (model === 'm' ? { input: 1, output: 2 } : undefined) } },
    clock: { clock: manualClock() },
    metrics: { metrics: upstreamMetrics([registry]) },
    audit: { audit: { breakerChanged() {} } },
    tracing: { tracing: { attempt: () => NO_SPAN } },
    errors: { httpErrors: { notFound: (message: string) => Object.assign(new Error(message), { statusCode: 404 }) } },
  };
  for (const [name, decorators] of Object.entries(stubs)) {
    const add = async (fastify: FastifyInstance) => {
      for (const [key, value] of Object.entries(decorators)) fastify.decorate(key, value);
    };
    await app.register(fp(add, { name }));
  }
  await app.register(llm, settings);
  await app.ready();
  return {
    app,
    metricsText: () => registry.metrics(),
    reload(changed) {
      for (const listener of listeners) listener({ ...settings, ...changed } as Config);
    },
  };
}

async function ask({ app }: Service, model?: string, signal = new AbortController().signal) {
  const outcome: { parts: unknown[]; fault?: unknown } = { parts: [] };
  const sink = {
    onTarget() {},
    onFirstPart() {},
    onPart: (part: unknown) => void outcome.parts.push(part),
    onFault: (fault: unknown) => void Object.assign(outcome, { fault }),
  };
  app.llm.generate(app.llm.route(model), { messages: [{ role: 'user', content: 'q' }] }, sink as never, signal);
  for (let i = 0; i < 5; i++) await turn();
  return outcome;
}

t.test('a configured model is answered by its target', async (t) => {
  const service = await start(t, SETTINGS, [fake('a', [ANSWER]), fake('b', [ANSWER])]);
  t.same(service.app.llm.models, ['fast', 'both']);
  t.equal(service.app.llm.route(undefined).name, 'fast', 'the default model');
  t.same((await ask(service, 'fast')).parts, ANSWER);
});

t.test('an answer has the cost of its target, and a route the price of all its targets', async (t) => {
  const usage = { inputTokens: 3, outputTokens: 4 };
  const finish = { type: 'finish', reason: 'stop', usage } as const;
  const service = await start(t, SETTINGS, [fake('a', [[finish]]), fake('b', [[finish]])]);
  t.same((await ask(service, 'fast')).parts, [{ ...finish, usage: { ...usage, cost: 11 / 1e6 } }]);
  const { llm } = service.app;
  t.same(llm.commonPrice(llm.route('fast')), { input: 1, output: 2 });
  t.equal(llm.commonPrice(llm.route('both')), undefined);
});

t.test('an unknown model is 404 with the configured names', async (t) => {
  const { app } = await start(t, SETTINGS, [fake('a', [ANSWER]), fake('b', [ANSWER])]);
  t.throws(() => app.llm.route('slow'), {
    statusCode: 404,
    message: 'Unknown model. Available models: fast, both.',
  });
});

t.test('maxConcurrent of a provider bounds its calls, other providers have no bound', async (t) => {
  const service = await start(t, SETTINGS, [fake('a', [['silence']]), fake('b', [['silence']])]);
  const { llm } = service.app;
  t.equal(llm.hasCapacity(llm.route('fast')), true);
  const controller = new AbortController();
  await ask(service, 'fast', controller.signal);
  t.equal(llm.hasCapacity(llm.route('fast')), false);
  t.match((await ask(service, 'fast')).fault, { reason: 'saturated' });
  for (let i = 0; i < 3; i++) await ask(service, 'both', controller.signal);
  t.equal(llm.hasCapacity(llm.route('both')), true);
  controller.abort();
  t.equal(llm.hasCapacity(llm.route('fast')), true, 'the place is free after an abort');
});

t.test('a reload replaces the models, and forgets the state of targets that are gone', async (t) => {
  const failing = fake('a', [[fault('upstream_failed', { retryable: false })]]);
  const service = await start(t, SETTINGS, [failing, fake('b', [ANSWER])]);
  await ask(service, 'fast');
  t.match(service.app.llm.targets(), [{ provider: 'a', model: 'm', state: 'closed' }]);
  service.reload({ models: [{ name: 'new', targets: [{ provider: 'b', model: 'n' }] }] });
  t.same(service.app.llm.models, ['new']);
  t.throws(() => service.app.llm.route('fast'), { message: /: new\.$/ });
  t.same((await ask(service)).parts, ANSWER, 'the default is looked up again');
  t.same(service.app.llm.targets(), []);
});

t.test('no list and no label holds a model name that a client has made up', async (t) => {
  const settings = { ...SETTINGS, providers: { ...SETTINGS.providers, open: { type: 'demo', models: '*' } } };
  const failing = fake('open', [[fault('upstream_failed', { retryable: false })]]);
  const service = await start(t, settings as ModelSettings, [fake('a', [ANSWER]), fake('b', [ANSWER]), failing]);
  for (let i = 0; i < 60; i++) await ask(service, `open/secret-${i}`);
  const expected = [{ provider: 'open', model: '*', state: 'open' }];
  t.same(service.app.llm.targets(), expected);
  t.notMatch(await service.metricsText(), /secret/);
  t.match(await service.metricsText(), /^sluice_breaker_state\{provider="open",model="\*"\} 2$/m);
  t.match((await ask(service, 'open/other')).fault, { reason: 'circuit_open' }, 'they share one breaker');
  service.reload({});
  t.same(service.app.llm.targets(), expected, 'a reload keeps the state of targets that stay');
  service.reload({ providers: SETTINGS.providers });
  t.same(service.app.llm.targets(), []);
});

t.test('the plugin names the plugins that it needs', async (t) => {
  await t.rejects(async () => Fastify().register(llm, SETTINGS), /dependency 'audit'/);
});
