import type { ChatRequest, Provider, RequestSettings, ToolChoice } from '../../providers/types.ts';
import type { ModelRoute, Target } from '../config/model-routes.ts';

/** A question without its model; the route names the model. */
export type Prompt = Omit<ChatRequest, 'model' | 'traceHeaders'>;

/** Options that have a field of their own in `ChatRequest`. */
const FIELDS: Readonly<Record<string, keyof ChatRequest>> = {
  temperature: 'temperature',
  top_p: 'topP',
  max_tokens: 'maxTokens',
  max_completion_tokens: 'maxTokens',
  stop: 'stop',
  tools: 'tools',
  tool_choice: 'toolChoice',
};

/**
 * Returns the request with the changes of the operator. Options of the request win over defaults, and earlier settings
 * over later ones; all lists of `drop` and `forward` apply.
 */
export function applySettings(request: ChatRequest, all: readonly (RequestSettings | undefined)[]): ChatRequest {
  const changed: Record<string, unknown> = { ...request };
  const options: Record<string, unknown> = { ...request.options };
  const forward: string[] = [];
  for (const settings of all) {
    for (const [name, value] of Object.entries(settings?.defaults ?? {})) {
      const field = FIELDS[name];
      if (field === undefined) options[name] ??= value;
      else changed[field] ??= fieldValue(field, value);
    }
    forward.push(...(settings?.forward ?? []));
  }
  for (const name of all.flatMap((settings) => settings?.drop ?? [])) {
    const field = FIELDS[name];
    if (field !== undefined) delete changed[field];
    else delete options[name];
  }
  // Without tools, a choice of tools is an error of several APIs.
  if (changed.tools === undefined) delete changed.toolChoice;
  if (Object.keys(options).length > 0) changed.options = options;
  else delete changed.options;
  if (forward.length > 0) changed.forward = forward;
  return changed as unknown as ChatRequest;
}

/** Returns the request for a target: with the operator's settings, and without the state of other providers. */
export function requestFor(prompt: Prompt, target: Target, provider: Provider, route: ModelRoute): ChatRequest {
  const messages = prompt.messages.map((message) => {
    if (message.role !== 'assistant' || message.state === undefined) return message;
    if (message.state.provider === target.provider) return message;
    const { state: _, ...others } = message;
    return others;
  });
  return applySettings({ ...prompt, messages, model: target.model }, [route.settings, provider.settings]);
}

/** Converts the value of a default from Chat Completions. */
function fieldValue(field: keyof ChatRequest, value: unknown): unknown {
  if (field === 'stop') return typeof value === 'string' ? [value] : value;
  if (field !== 'toolChoice' || typeof value === 'string') return value;
  return { name: (value as { function?: { name?: string } }).function?.name ?? '' } satisfies ToolChoice;
}
