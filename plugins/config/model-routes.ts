import { CONTINUE_PROMPT } from '../llm/continuation.ts';
import type { Config } from './index.ts';

/** Which upstream model answers to which public name. Pure. */

export interface Target {
  readonly provider: string;
  readonly model: string;
}

export interface Deadlines {
  readonly firstTokenMs: number;
  readonly idleMs: number;
  readonly totalMs: number;
}

export interface ModelRoute {
  readonly name: string;
  /** The name in metrics: names that come from outside would have no bound there. */
  readonly label: string;
  readonly targets: readonly [Target, ...Target[]];
  readonly deadlines: Deadlines;
  /** What follows when a target fails in the middle of its answer. */
  readonly onMidStreamFailure: 'error' | 'continue';
  readonly continuePrompt: string;
}

export interface ModelRoutes {
  /** The route of a public name, or of the default; undefined for a model that is not configured. */
  find(name: string | undefined): ModelRoute | undefined;
  /** Every name that `find` knows, the default first; a provider that is open to all as `name/*`. */
  readonly names: readonly string[];
}

export function createModelRoutes({ models, providers, defaultModel, deadlines }: Config): ModelRoutes {
  const routes = new Map<string, ModelRoute>();
  const openProviders = new Set<string>();

  const direct = (name: string, label = name): ModelRoute => ({
    name,
    label,
    targets: [parseTarget(name)],
    deadlines: deadlines,
    onMidStreamFailure: 'error',
    continuePrompt: CONTINUE_PROMPT,
  });
  const addDirect = (name: string) => {
    if (!routes.has(name)) routes.set(name, direct(name));
  };

  for (const { name, targets, ...own } of models) {
    const [first, ...rest] = targets;
    if (first === undefined) continue;
    routes.set(name, {
      name,
      label: name,
      targets: [first, ...rest],
      deadlines: {
        firstTokenMs: own.firstTokenMs ?? deadlines.firstTokenMs,
        idleMs: own.idleMs ?? deadlines.idleMs,
        totalMs: own.totalMs ?? deadlines.totalMs,
      },
      onMidStreamFailure: own.onMidStreamFailure ?? 'error',
      continuePrompt: own.continuePrompt ?? CONTINUE_PROMPT,
    });
  }
  if (defaultModel !== undefined) addDirect(defaultModel);
  for (const [provider, entry] of Object.entries(providers)) {
    if (entry.models === '*') openProviders.add(provider);
    else for (const model of entry.models ?? []) addDirect(`${provider}/${model}`);
  }

  const defaultName = defaultModel ?? (routes.has('default') ? 'default' : routes.keys().next().value);
  const listed = [...routes.keys()].sort((a, b) => Number(b === defaultName) - Number(a === defaultName));

  return {
    find(name = defaultName) {
      if (name === undefined) return undefined;
      if (!routes.has(name) && openProviders.has(parseTarget(name).provider)) {
        // Not kept: names come from outside, and a map of them would have no bound.
        return parseTarget(name).model === '' ? undefined : direct(name, `${parseTarget(name).provider}/*`);
      }
      return routes.get(name);
    },
    names: [...listed, ...[...openProviders].map((provider) => `${provider}/*`)],
  };
}

/** `bella/gpt-4o` → the provider before the first slash, its model after it. */
function parseTarget(name: string): Target {
  const slash = name.indexOf('/');
  return slash < 0 ? { provider: '', model: name } : { provider: name.slice(0, slash), model: name.slice(slash + 1) };
}
