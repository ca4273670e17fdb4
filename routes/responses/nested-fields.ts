import { checkMembers, type FieldRule, hint, type Invalid, refused, served, unknownParameter } from './fields.ts';
import type { ResponseBody } from './schema.ts';

/**
 * Says what Sluice does with the members of the fields of a request, as `fields.ts` does with the fields. `[]` stands for
 * each element of a list. A test compares the names with the specification.
 */
export const NESTED_FIELDS = {
  reasoning: {
    context: hint('providers decide which reasoning the model sees'),
    effort: served('needs a provider that has it'),
    generate_summary: hint('as `summary`'),
    mode: hint('providers decide'),
    summary: hint('reasoning that a provider sends is always returned'),
  },
  stream_options: {
    include_obfuscation: hint('events are never obfuscated'),
  },
  text: {
    format: served('`text`, `json_object`, `json_schema`'),
    verbosity: served('needs a provider that has it'),
  },
  'text.format': {
    description: served('of a `json_schema`'),
    name: served('of a `json_schema`'),
    schema: served('of a `json_schema`'),
    strict: served('of a `json_schema`'),
    type: served(''),
  },
  tool_choice: {
    mode: served('of `allowed_tools`'),
    name: served('of a function'),
    tools: served('of `allowed_tools`'),
    type: served('`function`, `allowed_tools`'),
  },
  'tool_choice.tools[]': {
    name: served(''),
    type: served('`function`'),
  },
  'tools[]': {
    allowed_callers: refused('tools are called by the model alone'),
    async: refused('a question has the outputs of all its calls; `false` is accepted'),
    defer_loading: hint('tools are always loaded'),
    description: served(''),
    name: served(''),
    output_schema: hint('the model sees the output itself'),
    parameters: served(''),
    strict: served('`false` by default'),
    type: served('`function`'),
  },
} satisfies Record<string, Record<string, FieldRule>>;

/**
 * Checks the members of fields. A tool that is not a function, and a choice of one, is refused by `tools.ts`.
 * @throws the error that `invalid` returns, for a member that the specification does not have there, and for one that is
 *   refused and used
 */
export function checkNestedFields(
  { reasoning, stream_options: streamOptions, text, tool_choice: choice, tools }: ResponseBody,
  invalid: Invalid,
): void {
  checkMembers(reasoning, NESTED_FIELDS.reasoning, 'reasoning', invalid);
  checkMembers(streamOptions, NESTED_FIELDS.stream_options, 'stream_options', invalid);
  checkMembers(text, NESTED_FIELDS.text, 'text', invalid);
  checkFormat(text?.format, invalid);
  for (const [i, tool] of (tools ?? []).entries())
    if (tool.type === 'function') checkMembers(tool, NESTED_FIELDS['tools[]'], `tools[${i}]`, invalid);
  if (typeof choice !== 'object' || choice === null) return;
  if (choice.type !== 'function' && choice.type !== 'allowed_tools') return;
  checkMembers(choice, NESTED_FIELDS.tool_choice, 'tool_choice', invalid);
  for (const [i, tool] of (choice.tools ?? []).entries())
    if (tool.type === 'function')
      checkMembers(tool, NESTED_FIELDS['tool_choice.tools[]'], `tool_choice.tools[${i}]`, invalid);
}

/** Only a `json_schema` has more than its type. */
function checkFormat(format: NonNullable<ResponseBody['text']>['format'], invalid: Invalid): void {
  checkMembers(format, NESTED_FIELDS['text.format'], 'text.format', invalid);
  if (format == null || format.type === 'json_schema') return;
  for (const [name, value] of Object.entries(format))
    if (name !== 'type' && value !== null) throw unknownParameter(name, 'text.format', invalid);
}
