import t from 'tap';
import { createModelRoutes, longestAnswerMs, type ModelSettings } from '../../plugins/config/model-routes.ts';

/** Tests which targets and settings a public model name gets. */

const DEADLINES = { connectMs: 1, headersMs: 2, firstTokenMs: 3_000, idleMs: 4_000, thinkingMs: 4_500, totalMs: 5_000 };
const DEFAULTS = { firstTokenMs: 3_000, idleMs: 4_000, thinkingMs: 4_500, totalMs: 5_000 };
const A = { provider: 'a', model: 'x' };
const B = { provider: 'b', model: 'y/z' };

type Models = ModelSettings['models'];

function routes({
  models = [],
  providers = {},
  ...rest
}: {
  models?: Models;
  providers?: Record<string, { models?: '*' | string[] }>;
  defaultModel?: string;
}) {
  const entries = Object.fromEntries(
    Object.entries(providers).map(([name, entry]) => [name, { type: 'demo', ...entry }]),
  );
  return createModelRoutes({ models, providers: entries as never, deadlines: DEADLINES, ...rest });
}

t.test('a model without overrides gets the general deadlines and ends with an error', async (t) => {
  const route = routes({ models: [{ name: 'fast', targets: [A, B] }] }).find('fast');
  t.same(route?.targets, [A, B], 'targets in the order of the configuration');
  t.match(route, { name: 'fast', label: 'fast', deadlines: DEFAULTS, onMidStreamFailure: 'error' });
  t.match(route?.continuePrompt, /^Your answer was cut off\./);
});

t.test('each override of a model replaces one setting and leaves the others', async (t) => {
  const overrides: [Partial<Models[number]>, object][] = [
    [{ firstTokenMs: 7 }, { deadlines: { ...DEFAULTS, firstTokenMs: 7 } }],
    [{ idleMs: 7 }, { deadlines: { ...DEFAULTS, idleMs: 7 } }],
    [{ thinkingMs: 7 }, { deadlines: { ...DEFAULTS, thinkingMs: 7 } }],
    [{ totalMs: 7 }, { deadlines: { ...DEFAULTS, totalMs: 7 } }],
    [{ onMidStreamFailure: 'continue' }, { onMidStreamFailure: 'continue' }],
    [{ onMidStreamFailure: 'error' }, { onMidStreamFailure: 'error' }],
    [{ continuePrompt: 'Weiter.' }, { continuePrompt: 'Weiter.' }],
  ];
  const plain = routes({ models: [{ name: 'm', targets: [A] }] }).find('m');
  for (const [override, changed] of overrides) {
    const all = routes({
      models: [
        { name: 'm', targets: [A], ...override },
        { name: 'n', targets: [A] },
      ],
    });
    t.same({ ...all.find('m') }, { ...plain, ...changed }, JSON.stringify(override));
    t.same({ ...all.find('n'), name: 'm', label: 'm' }, plain, `${JSON.stringify(override)} concerns no other model`);
  }
});

t.test('the default model is DEFAULT_MODEL, else the model named default, else the first one', async (t) => {
  const models: Models = [
    { name: 'first', targets: [A] },
    { name: 'default', targets: [B] },
  ];
  const named = routes({ models, defaultModel: 'a/x' });
  t.match(named.find(undefined), { name: 'a/x', label: 'a/x', targets: [A], onMidStreamFailure: 'error' });
  t.same(named.names, ['a/x', 'first', 'default'], 'the default comes first');
  t.equal(routes({ models }).find(undefined)?.name, 'default');
  t.same(routes({ models }).names, ['default', 'first']);
  t.equal(routes({ models: models.slice(0, 1) }).find(undefined)?.name, 'first');
  t.equal(routes({ providers: { a: { models: ['x', 'y'] } } }).find(undefined)?.name, 'a/x');
  t.equal(routes({}).find(undefined), undefined, 'nothing is configured');
});

t.test('DEFAULT_MODEL may name a configured model, and keeps its settings', async (t) => {
  const models: Models = [{ name: 'fast', targets: [A, B], idleMs: 9 }];
  const { find, names } = routes({ models, defaultModel: 'fast' });
  t.match(find(undefined), { name: 'fast', targets: [A, B], deadlines: { idleMs: 9 } });
  t.same(names, ['fast']);
});

t.test('the models of a provider are found as provider/model', async (t) => {
  const { find, names } = routes({
    models: [{ name: 'a/x', targets: [B] }],
    providers: { a: { models: ['x', 'org/y'] }, b: {} },
  });
  t.match(find('a/org/y'), {
    name: 'a/org/y',
    label: 'a/org/y',
    targets: [{ provider: 'a', model: 'org/y' }],
    deadlines: DEFAULTS,
    onMidStreamFailure: 'error',
  });
  t.match(find('a/org/y')?.continuePrompt, /^Your answer was cut off\./);
  t.same(find('a/x')?.targets, [B], 'a model of the configuration wins over the same name');
  t.same(names, ['a/x', 'a/org/y']);
  for (const unknown of ['x', 'a', 'a/', 'a/z', 'b/y', '/x', '', 'A/x']) t.equal(find(unknown), undefined, unknown);
});

t.test('a provider that allows all models is open for any name, under one label', async (t) => {
  const { find, names } = routes({
    models: [{ name: 'open/tuned', targets: [A], totalMs: 9 }],
    providers: { open: { models: '*' }, closed: { models: ['m'] } },
  });
  t.match(find('open/any/thing'), {
    name: 'open/any/thing',
    label: 'open/*',
    targets: [{ provider: 'open', model: 'any/thing' }],
    deadlines: DEFAULTS,
  });
  t.match(
    find('open/tuned'),
    { label: 'open/tuned', targets: [A], deadlines: { totalMs: 9 } },
    'a configured model wins',
  );
  t.equal(find('open/'), undefined, 'a model needs a name');
  for (const name of ['open', 'openx', 'o']) t.equal(find(name), undefined, `${name}: no slash, no provider`);
  t.equal(find('closed/other'), undefined);
  t.same(names, ['open/tuned', 'closed/m', 'open/*'], 'listed last, with a star');
});

t.test('a model without targets does not exist', async (t) => {
  const { find, names } = routes({ models: [{ name: 'empty', targets: [] }] });
  t.equal(find('empty'), undefined);
  t.same(names, []);
});

t.test('the longest answer of all models counts', async (t) => {
  const model = (totalMs?: number) => ({ name: 'm', targets: [A], ...(totalMs !== undefined && { totalMs }) });
  t.equal(longestAnswerMs({ models: [], deadlines: DEADLINES }), 5_000);
  t.equal(longestAnswerMs({ models: [model(), model(4_000)], deadlines: DEADLINES }), 5_000);
  t.equal(longestAnswerMs({ models: [model(9_000), model(6_000)], deadlines: DEADLINES }), 9_000);
});
