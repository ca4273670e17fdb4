import type { RequestSettings } from '../../providers/types.ts';
import type { ModelPrice } from './price-file.ts';
import type { Config } from './schema.ts';

/** Maps public model names to upstream models. Pure. In this folder because `check.ts` validates names by it. */

export interface Target {
  /** Name of the provider in the configuration. */
  readonly provider: string;
  /** The provider's own name of the model. */
  readonly model: string;
  /** Price of this target alone. */
  readonly price?: ModelPrice | undefined;
}

/** Time limits of one call, in milliseconds. */
export interface Deadlines {
  /** Until the first part of the answer. */
  readonly firstTokenMs: number;
  /** Longest silence between two parts. */
  readonly idleMs: number;
  /** Longest silence while the provider reports that the model is thinking. */
  readonly thinkingMs: number;
  /** Longest answer. */
  readonly totalMs: number;
}

export interface ModelRoute {
  /** Public name. */
  readonly name: string;
  /** Name in metrics. Names that clients choose share one label. */
  readonly label: string;
  /** Asked in this order. */
  readonly targets: readonly [Target, ...Target[]];
  readonly deadlines: Deadlines;
  /** Price of all targets that have none of their own. */
  readonly price?: ModelPrice | undefined;
  /** Changes to the options of requests, besides those of the provider. */
  readonly settings?: RequestSettings;
  /** Reaction if a target fails in the middle of its answer. */
  readonly onMidStreamFailure: 'error' | 'continue';
  /** Instruction for the target that continues an answer. */
  readonly continuePrompt: string;
}

export interface ModelRoutes {
  /** Returns the route of a public name, or of the default model; undefined if it is not configured. */
  find(name: string | undefined): ModelRoute | undefined;
  /** All names that `find` knows, the default first. A provider that allows all models counts as `name/*`. */
  readonly names: readonly string[];
}

export interface ModelSettings extends Pick<Config, 'models' | 'providers' | 'deadlines'> {
  readonly defaultModel?: string | undefined;
}

const DEFAULT_CONTINUE_PROMPT =
  'Your answer was cut off. Go on exactly where it stopped, in the same language and form. Do not repeat anything, do not apologise, do not comment: write only what comes next.';

export function createModelRoutes({ models, providers, defaultModel, deadlines }: ModelSettings): ModelRoutes {
  const routes = new Map<string, ModelRoute>();
  const openProviders = new Set<string>();

  const directRoute = (name: string, label = name): ModelRoute => ({
    name,
    label,
    targets: [parseTarget(name)],
    deadlines,
    onMidStreamFailure: 'error',
    continuePrompt: DEFAULT_CONTINUE_PROMPT,
  });
  const addDirectRoute = (name: string) => {
    if (!routes.has(name)) routes.set(name, directRoute(name));
  };

  for (const { name, targets, ...overrides } of models) {
    const [first, ...rest] = targets;
    if (first === undefined) continue;
    routes.set(name, {
      name,
      label: name,
      targets: [first, ...rest],
      deadlines: {
        firstTokenMs: overrides.firstTokenMs ?? deadlines.firstTokenMs,
        idleMs: overrides.idleMs ?? deadlines.idleMs,
        thinkingMs: overrides.thinkingMs ?? deadlines.thinkingMs,
        totalMs: overrides.totalMs ?? deadlines.totalMs,
      },
      ...(overrides.price && { price: overrides.price }),
      settings: { defaults: overrides.defaults, drop: overrides.drop, forward: overrides.forward },
      onMidStreamFailure: overrides.onMidStreamFailure ?? 'error',
      continuePrompt: overrides.continuePrompt ?? DEFAULT_CONTINUE_PROMPT,
    });
  }
  if (defaultModel !== undefined) addDirectRoute(defaultModel);
  for (const [provider, entry] of Object.entries(providers)) {
    if (entry.models === '*') openProviders.add(provider);
    else for (const model of entry.models ?? []) addDirectRoute(`${provider}/${model}`);
  }

  const defaultName = defaultModel ?? (routes.has('default') ? 'default' : routes.keys().next().value);
  const names = [...routes.keys()].sort((a, b) => Number(b === defaultName) - Number(a === defaultName));

  return {
    find(name = defaultName) {
      if (name === undefined) return undefined;
      const { provider, model } = parseTarget(name);
      if (!routes.has(name) && openProviders.has(provider)) {
        // Not stored: clients choose these names, so a map of them would have no bound.
        return model === '' ? undefined : directRoute(name, `${provider}/*`);
      }
      return routes.get(name);
    },
    names: [...names, ...[...openProviders].map((provider) => `${provider}/*`)],
  };
}

/** Returns the longest time in milliseconds that an answer of any model may take. */
export function longestAnswerMs({ models, deadlines }: Pick<Config, 'models' | 'deadlines'>): number {
  return Math.max(deadlines.totalMs, ...models.map(({ totalMs = 0 }) => totalMs));
}

/** Splits `bella/gpt-4o` at its first slash into provider and model. */
function parseTarget(name: string): Target {
  const slash = name.indexOf('/');
  return slash < 0 ? { provider: '', model: name } : { provider: name.slice(0, slash), model: name.slice(slash + 1) };
}
