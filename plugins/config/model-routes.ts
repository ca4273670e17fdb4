import { CONTINUE_PROMPT } from '../llm/continuation.ts';
import type { Config } from './index.ts';

/** Which upstream model answers to which public name. Pure. */

export interface Target {
  readonly provider: string;
  readonly model: string;
}

export interface Limits {
  readonly firstTokenMs: number;
  readonly idleMs: number;
  readonly totalMs: number;
}

export interface ModelRoute {
  readonly name: string;
  /** The name in metrics: names that come from outside would have no bound there. */
  readonly label: string;
  readonly targets: readonly [Target, ...Target[]];
  readonly limits: Limits;
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
  const open = new Set<string>();

  const direct = (name: string, label = name): ModelRoute => ({
    name,
    label,
    targets: [split(name)],
    limits: deadlines,
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
      limits: {
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
    if (entry.models === '*') open.add(provider);
    else for (const model of entry.models ?? []) addDirect(`${provider}/${model}`);
  }

  const byDefault = defaultModel ?? (routes.has('default') ? 'default' : routes.keys().next().value);
  const listed = [...routes.keys()].sort((a, b) => Number(b === byDefault) - Number(a === byDefault));

  return {
    find(name = byDefault) {
      if (name === undefined) return undefined;
      if (!routes.has(name) && open.has(split(name).provider)) {
        // Not kept: names come from outside, and a map of them would have no bound.
        return split(name).model === '' ? undefined : direct(name, `${split(name).provider}/*`);
      }
      return routes.get(name);
    },
    names: [...listed, ...[...open].map((provider) => `${provider}/*`)],
  };
}

/** `bella/gpt-4o` → the provider before the first slash, its model after it. */
function split(name: string): Target {
  const slash = name.indexOf('/');
  return slash < 0 ? { provider: '', model: name } : { provider: name.slice(0, slash), model: name.slice(slash + 1) };
}
