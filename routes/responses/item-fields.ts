import { checkMembers, type FieldRule, hint, type Invalid, type MemberRules, refused, served } from './fields.ts';
import type { InputItem, InputPart } from './schema.ts';

/**
 * Says what Sluice does with the members of input items and of their parts, as `fields.ts` does with the fields. Clients
 * send the output of a response back as input, so each member that the specification has in an output item is known, and
 * those that the SDKs add to it. A test compares the names with the specification.
 */

const callers = refused('tools are called by the model alone; `direct` is accepted');
const createdBy = hint('lists of items have it');
const cachePoint = hint('providers decide what they cache');
const noNamespaces = refused('tools have no namespaces');
const id = served('kept; made by Sluice if absent');
const type = served('');

export const ITEM_FIELDS = {
  message: {
    content: served('see below'),
    id,
    phase: hint('no provider is told the phase of a message'),
    role: served('`user`, `system`, `developer`, `assistant`'),
    status: hint('the text is used as it is'),
    type,
  },
  function_call: {
    arguments: served(''),
    async: refused('a question has the outputs of all its calls; `false` is accepted'),
    call_id: served(''),
    caller: callers,
    created_by: createdBy,
    id,
    name: served(''),
    namespace: noNamespaces,
    parsed_arguments: hint('added by the SDKs'),
    status: served('`incomplete`: a call without an output is left out'),
    type,
  },
  function_call_output: {
    call_id: served(''),
    caller: callers,
    created_by: createdBy,
    id,
    name: hint('the call has it'),
    namespace: noNamespaces,
    output: served('text'),
    status: hint('the output is used as it is'),
    type,
  },
  reasoning: {
    content: served('`reasoning_text`'),
    encrypted_content: served('as Sluice has sent it; left out if another service has'),
    id,
    status: hint('the reasoning is used as it is'),
    summary: served('`summary_text`'),
    type,
  },
  item_reference: {
    id: served('of an item of a stored response'),
    type: served('may be left out'),
  },
} satisfies Record<string, Record<string, FieldRule>>;

export const PART_FIELDS = {
  input_text: { prompt_cache_breakpoint: cachePoint, text: served(''), type },
  input_image: {
    detail: served('a hint to providers that have it'),
    file_id: refused('send the data or a URL'),
    image_url: served('`https:` or `data:image/` URL'),
    prompt_cache_breakpoint: cachePoint,
    type,
  },
  input_file: {
    detail: hint('providers decide'),
    file_data: served('PDF as a `data:` URL'),
    file_id: refused('send the data or a URL'),
    file_url: served('`https:` URL of a PDF'),
    filename: served('needs a provider that has it'),
    prompt_cache_breakpoint: cachePoint,
    type,
  },
  output_text: {
    annotations: hint('the model sees the text'),
    logprobs: hint('the model sees the text'),
    parsed: hint('added by the SDKs'),
    text: served(''),
    type,
  },
  refusal: { parsed: hint('added by the SDKs'), refusal: served(''), type },
  reasoning_text: { text: served(''), type },
  summary_text: { text: served(''), type },
} satisfies Record<string, Record<string, FieldRule>>;

/**
 * Checks the members of items and of their parts. `input.ts` and `content.ts` refuse types that Sluice does not have.
 * @throws the error that `invalid` returns, for a member that the specification does not have there, and for one that is
 *   refused and used
 */
export function checkItems(items: readonly InputItem[], invalid: Invalid): void {
  for (const [i, item] of items.entries()) {
    const at = `input[${i}]`;
    const rules = rulesOf(ITEM_FIELDS, isReference(item) ? 'item_reference' : (item.type ?? 'message'));
    if (rules === undefined) continue;
    checkMembers(withoutDirectCaller(item), rules, at, invalid);
    for (const name of ['content', 'output', 'summary'] as const) {
      const parts = item[name];
      if (Array.isArray(parts)) checkParts(parts, `${at}.${name}`, invalid);
    }
  }
}

/** Returns true for an `item_reference`, whose type may be left out. */
export function isReference(item: InputItem): boolean {
  if (item.type != null) return item.type === 'item_reference';
  return !!item.id && Object.entries(item).every(([name, value]) => name === 'id' || value == null);
}

function checkParts(parts: readonly InputPart[], at: string, invalid: Invalid): void {
  for (const [i, part] of parts.entries()) {
    const rules = rulesOf(PART_FIELDS, part.type === 'text' ? 'input_text' : part.type);
    if (rules !== undefined) checkMembers(part, rules, `${at}[${i}]`, invalid);
  }
}

function rulesOf(tables: Readonly<Record<string, MemberRules>>, name: string): MemberRules | undefined {
  return Object.hasOwn(tables, name) ? tables[name] : undefined;
}

/** A model that calls a tool itself is the only caller that there is. */
function withoutDirectCaller(item: InputItem): object {
  const { caller, ...rest } = item as InputItem & { caller?: { type?: unknown } | null };
  return caller?.type === 'direct' ? rest : item;
}
