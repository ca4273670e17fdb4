import type { Echo } from './response-object.ts';
import type { ResponseBody } from './schema.ts';

/** Returns the fields of a request that its response repeats, with the defaults of OpenAI where they are in force here. */
export function echoOf(body: ResponseBody): Echo {
  const { text, reasoning, tools } = body;
  return {
    background: body.background ?? false,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    max_tool_calls: body.max_tool_calls ?? null,
    metadata: body.metadata ?? {},
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    previous_response_id: body.previous_response_id ?? null,
    prompt_cache_key: body.prompt_cache_key ?? null,
    reasoning: {
      effort: reasoning?.effort ?? null,
      summary: reasoning?.summary ?? reasoning?.generate_summary ?? null,
    },
    safety_identifier: body.safety_identifier ?? null,
    service_tier: body.service_tier ?? null,
    store: body.store ?? true,
    temperature: body.temperature ?? null,
    text: { format: text?.format ?? { type: 'text' }, verbosity: text?.verbosity ?? null },
    tool_choice: body.tool_choice ?? 'auto',
    tools: (tools ?? []).map(({ type, name, description, parameters, strict }) => ({
      ...{ type, name, ...(description != null && { description }) },
      ...{ parameters: parameters ?? null, strict: strict ?? false },
    })),
    top_logprobs: 0,
    top_p: body.top_p ?? null,
    truncation: body.truncation ?? 'disabled',
    ...(body.user != null && { user: body.user }),
  };
}
