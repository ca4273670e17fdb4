import type { Question } from '../../plugins/streams/api.ts';
import { checkFields, INCLUDABLE, unsupported } from './fields.ts';
import { type PlacedItem, toMessages } from './input.ts';
import { checkItems } from './item-fields.ts';
import { checkNestedFields } from './nested-fields.ts';
import type { InputItem, ResponseBody } from './schema.ts';
import { toolsOf } from './tools.ts';

/** Converts a Responses request to a question. */

type Invalid = (message: string, param?: string, code?: string) => Error;

/**
 * Checks what does not depend on the conversation.
 * @throws the error that `invalid` returns, for fields that are unknown or not supported, and for those that exclude one
 *   another
 */
export function checkRequest(body: ResponseBody, invalid: Invalid): void {
  checkFields(body, invalid);
  checkNestedFields(body, invalid);
  if (Array.isArray(body.input)) checkItems(body.input, invalid);
  checkInclude(body.include ?? [], invalid);
  if (body.background && body.store === false) throw invalid('background needs store.', 'background');
  if (body.input === undefined && !body.previous_response_id) {
    throw invalid('Send input, or previous_response_id.', 'input', 'missing_required_parameter');
  }
  for (const name of ['tools', 'text'] as const)
    if (hasInfinity(body[name])) throw invalid(`${name} has a number that is too large.`, name);
  checkMetadata(body.metadata ?? {}, invalid);
  const { format } = body.text ?? {};
  if (format?.type !== 'json_schema') return;
  if (format.name === undefined) throw invalid('text.format.name is missing.', 'text.format.name');
  if (format.schema === undefined) throw invalid('text.format.schema is missing.', 'text.format.schema');
}

/** @throws the error that `invalid` returns, for a value that is not understood */
export function checkInclude(include: readonly string[], invalid: Invalid): void {
  const unknown = include.findIndex((name) => !(INCLUDABLE as readonly string[]).includes(name));
  if (unknown >= 0) throw unsupported(`include[${unknown}]`, invalid);
}

/** @throws the error that `invalid` returns, for more than OpenAI allows. It repeats no name, because clients choose them. */
function checkMetadata(metadata: Readonly<Record<string, unknown>>, invalid: Invalid): void {
  const entries = Object.entries(metadata);
  const isValid = entries.every(
    ([name, value]) => name.length <= 64 && typeof value === 'string' && value.length <= 512,
  );
  if (isValid && entries.length <= 16) return;
  const bounds = 'at most 16 names of at most 64 characters, with texts of at most 512 characters';
  throw invalid(`metadata must have ${bounds}.`, 'metadata');
}

/** Returns true for JSON with a number that no JSON can repeat. */
function hasInfinity(value: unknown): boolean {
  if (typeof value === 'number') return !Number.isFinite(value);
  return typeof value === 'object' && value !== null && Object.values(value).some(hasInfinity);
}

/** Returns the items of the request itself. A text is a message of the user. */
export function ownItems({ input = [] }: ResponseBody): InputItem[] {
  if (typeof input !== 'string') return input;
  return [{ type: 'message', role: 'user', content: [{ type: 'input_text', text: input }] }];
}

/**
 * @param items the whole conversation, with references replaced by their items
 * @throws the error that `invalid` returns, for content and tools that are not supported
 */
export function toQuestion(body: ResponseBody, items: readonly PlacedItem[], invalid: Invalid): Question {
  const { model, instructions, temperature, top_p: topP, max_output_tokens: maxTokens } = body;
  const messages = toMessages(items, invalid);
  const tools = toolsOf(body, invalid);
  const options = optionsOf(body, tools.tools !== undefined);
  if (messages.length === 0) throw invalid('input has no message.', 'input');
  return {
    model: model ?? undefined,
    messages: instructions ? [{ role: 'system', content: instructions }, ...messages] : messages,
    ...(temperature != null && { temperature }),
    ...(topP != null && { topP }),
    ...(maxTokens != null && { maxTokens }),
    ...tools,
    ...(Object.keys(options).length > 0 && { options }),
  };
}

/** Options that have the same name in Chat Completions. */
const SAME_OPTIONS = [
  'user',
  'safety_identifier',
  'prompt_cache_key',
  'prompt_cache_retention',
  'service_tier',
] as const satisfies (keyof ResponseBody)[];

/** Returns the options by their names in Chat Completions. */
function optionsOf(body: ResponseBody, hasTools: boolean): Record<string, unknown> {
  const { text, reasoning } = body;
  const format = text?.format;
  const options: Record<string, unknown> = {};
  for (const name of SAME_OPTIONS) if (body[name] != null) options[name] = body[name];
  if (reasoning?.effort != null) options.reasoning_effort = reasoning.effort;
  if (text?.verbosity != null) options.verbosity = text.verbosity;
  if (hasTools && body.parallel_tool_calls === false) options.parallel_tool_calls = false;
  if (format?.type === 'json_object') options.response_format = { type: 'json_object' };
  if (format?.type === 'json_schema') {
    const { name, description, schema, strict } = format;
    const fields = { name, ...(description && { description }), schema, ...(strict != null && { strict }) };
    options.response_format = { type: 'json_schema', json_schema: fields };
  }
  return options;
}
