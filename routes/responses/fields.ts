/**
 * Says what Sluice does with each field of a request that OpenAI's specification has:
 *
 * - `served`: it reaches the model, or has its effect here.
 * - `hint`: it is accepted and left out, because the answer is right without it.
 * - `refused`: a value that asks for anything gets 400 with the name of the field.
 *
 * A test compares the names with the specification, and `docs/responses.md` repeats the table.
 */

export type Verdict = 'served' | 'hint' | 'refused';

export interface FieldRule {
  readonly verdict: Verdict;
  readonly note: string;
}

export const served = (note: string): FieldRule => ({ verdict: 'served', note });
export const hint = (note: string): FieldRule => ({ verdict: 'hint', note });
export const refused = (note: string): FieldRule => ({ verdict: 'refused', note });

export const REQUEST_FIELDS = {
  access_programs: refused('no access programs'),
  background: served('the answer continues without a reader; needs `store`'),
  background_options: refused('the deadlines of the model apply'),
  context_management: refused('use `previous_response_id` with a shorter conversation'),
  conversation: refused('use `previous_response_id`'),
  image: refused('no generated images'),
  include: served('`reasoning.encrypted_content`, `message.input_image.image_url`; others are refused'),
  input: served('text, messages, images, files, function calls and outputs, reasoning, `item_reference`'),
  instructions: served('the first system message; not taken over from the previous response'),
  max_output_tokens: served('at least 1'),
  max_tool_calls: hint('it counts calls of built-in tools, and there are none'),
  metadata: served('kept with the response, and not sent to the provider'),
  model: served('public name; the default model if absent'),
  moderation: refused('no moderation'),
  parallel_tool_calls: served('`false` needs a provider that has it'),
  previous_response_id: served('as long as `responses.ttlMs` keeps the conversation'),
  prompt: refused('no stored prompts'),
  prompt_cache_key: served('a hint to providers that have it'),
  prompt_cache_options: hint('providers decide what they cache'),
  prompt_cache_retention: served('a hint to providers that have it'),
  reasoning: served('`effort`; the other members are hints'),
  safety_identifier: served('a hint to providers that have it'),
  service_tier: served('a hint to providers that have it'),
  store: served('`false`: not kept, and cancelled as soon as the client disconnects'),
  stream: served(''),
  stream_options: hint('`include_obfuscation`: events are never obfuscated'),
  temperature: served('0 to 2'),
  text: served('`format` and `verbosity`'),
  tool_choice: served('`auto`, `none`, `required`, a function, `allowed_tools`'),
  tools: served('functions; other types are refused'),
  top_logprobs: refused('no log probabilities; 0 is accepted'),
  top_p: served('0 to 1'),
  truncation: hint('a conversation that is too long is refused with `context_length_exceeded`, never cut'),
  user: served('a hint to providers that have it'),
} satisfies Record<string, FieldRule>;

export type FieldName = keyof typeof REQUEST_FIELDS;

/** Values of `include` that are understood. */
export const INCLUDABLE = ['reasoning.encrypted_content', 'message.input_image.image_url'] as const;

type Fields = Readonly<Record<string, unknown>>;
export type MemberRules = Readonly<Record<string, FieldRule>>;
export type Invalid = (message: string, param?: string, code?: string) => Error;

/**
 * @throws the error that `invalid` returns, for a field that the specification does not have, and for one that is refused
 *   and used
 */
export function checkFields(body: Fields, invalid: Invalid): void {
  checkMembers(body, REQUEST_FIELDS, '', invalid);
}

/**
 * Checks the members of an object.
 * @param at path of the object; empty for the body
 * @throws as `checkFields` does
 */
export function checkMembers(value: object | null | undefined, rules: MemberRules, at: string, invalid: Invalid): void {
  for (const [name, member] of Object.entries(value ?? {})) {
    const rule = Object.hasOwn(rules, name) ? rules[name] : undefined;
    if (rule === undefined) throw unknownParameter(name, at, invalid);
    if (rule.verdict === 'refused' && isUsed(member))
      throw unsupported(at === '' ? name : `${at}.${name}`, invalid, rule.note);
  }
}

/**
 * Returns the error of a name that the specification does not have.
 * @param at path of the object that has it; empty for the body
 */
export function unknownParameter(name: string, at: string, invalid: Invalid): Error {
  // The name may be anything that a client has made up.
  const shown = /^\w{1,40}$/.test(name) ? name : '';
  const path = [at, shown].filter((part) => part !== '').join('.') || undefined;
  const message =
    shown === '' && path !== undefined
      ? `Unknown parameter in ${path}.`
      : `Unknown parameter${path ? `: ${path}` : ''}.`;
  return invalid(message, path, 'unknown_parameter');
}

/**
 * Returns the error of something that the specification has and Sluice has not.
 * @param note of its rule: the reason, or what to do
 */
export function unsupported(param: string, invalid: Invalid, note?: string): Error {
  const more = note ? `: ${note.replaceAll('`', '')}` : '';
  return invalid(`${param} is not supported${more}.`, param, 'unsupported_parameter');
}

/** Returns false for values by which clients say that they do not use a field. */
export function isUsed(value: unknown): boolean {
  return ![undefined, null, false, 0].includes(value as null) && !(Array.isArray(value) && value.length === 0);
}
