import { ProviderError } from '../errors.ts';
import type { PartBuffer } from './parts.ts';
import { isJson, MAX_EVENT_CHARS, tooLargeError } from './sse.ts';
import { isMarkedId } from './tool-ids.ts';

/** A fragment of a tool call, in the form of OpenAI's deltas. Every field may be missing, empty or repeated. */
export interface ToolCallDelta {
  index?: unknown;
  id?: unknown;
  function?: { name?: unknown; arguments?: unknown } | null;
  /** Signature of the call; only Gemini. */
  extra_content?: unknown;
}

/** Assembles the tool calls of one answer. */
export interface ToolCalls {
  /** Number of calls that have begun. */
  readonly count: number;
  /** Adds the fragments of one delta. Several fragments of one delta without an id are several calls. */
  add(fragments: readonly (ToolCallDelta | null | undefined)[]): void;
  /** Reports that the call of this index is complete, so that it is no longer held back. */
  complete(index: number): void;
  /** Adds a call that is complete. */
  addWhole(call: { id?: unknown; name?: unknown; arguments: unknown }): void;
  /** Sends what was held back. Call at the end. @throws ProviderError for a call without a name */
  flush(): void;
  /**
   * Returns the `extra_content` of the calls that have one, by index; an empty one for a call whose id is
   * marked. Call after `flush`.
   */
  extraContent(): Record<string, Record<string, unknown>>;
}

interface Call {
  id: string;
  name: string;
  /** All arguments so far. */
  args: string;
  /** True if the arguments are a whole JSON object, so that nothing can follow them; undefined if not known. */
  isComplete: boolean | undefined;
  /** Position in the answer; set when the head is sent. */
  index: number | undefined;
  extraContent?: Record<string, unknown>;
}

interface Fragment {
  readonly id: string;
  readonly name: string;
  readonly index: number | undefined;
  readonly args: string;
}

/** Longest id, as clients may send it back. Gateways put signatures of some thousand characters into ids. */
const MAX_ID_CHARS = 65_536;

/** Arguments that some providers send until the real ones come, or if there are none. */
const PLACEHOLDER = '{}';
/** Length of a placeholder with spaces around it. Long arguments are not searched for one. */
const MAX_PLACEHOLDER_CHARS = 16;

/**
 * Creates an assembler. Providers mark the calls of an answer by index, by id, by both, or by neither, and some
 * repeat the index 0 for all (Ollama, Gemini and SGLang in their OpenAI-compatible APIs). So a fragment belongs
 * to a call by these rules, in this order:
 *
 * 1. A known id is its call.
 * 2. A new id with a name begins a call if its index is taken or missing. Without a name it continues the call.
 * 3. Without an id, a name begins a call if the call in question has a name and complete arguments, or was
 *    already touched by the same delta.
 * 4. A fragment with neither belongs to the call of its index, else to the call that is being streamed, unless
 *    that one has complete arguments.
 * 5. An index belongs to the newest call that has used it.
 * 6. A name that equals the known one is a repetition; another one is the rest of the name, until the head is sent.
 *    The head waits for the name and the first arguments. Positions count 0, 1, 2 … in the order of the heads.
 * 7. Arguments `{}` wait for what may replace them.
 *
 * Sources: ollama/ollama#15457, lmdeploy#3412, agno#8880, continue#13225, vercel/ai#14722, openai-agents-js#712.
 */
export function createToolCalls(parts: PartBuffer): ToolCalls {
  const calls: Call[] = [];
  const byId = new Map<string, Call>();
  const byIndex = new Map<number, Call>();
  let current: Call | undefined;
  let sentCount = 0;

  const begin = (): Call => {
    const call: Call = { id: '', name: '', args: '', isComplete: false, index: undefined };
    calls.push(call);
    return call;
  };

  const callOf = ({ id, name, index, args }: Fragment, touched: ReadonlySet<Call>): Call => {
    const known = byId.get(id);
    if (known !== undefined) return known;
    const owner = index === undefined ? current : byIndex.get(index);
    if (owner === undefined) {
      // The tail of a call may have another index than its head (agno#8880).
      return id === '' && name === '' && current && !isComplete(current) ? current : begin();
    }
    // First, because it is the common case.
    if (id === '' && (name === '' || owner.name === '')) return owner;
    const isOver = touched.has(owner) || isComplete(owner);
    if (id !== '' && name !== '') {
      const isLateHead = owner.id === '' && !isOver && (owner.name === '' || owner.name === name);
      return isLateHead ? owner : begin();
    }
    if (id !== '') return index === undefined && isOver && !hasPlaceholder(owner) ? begin() : owner;
    const isRepeated = index !== undefined && owner.name === name && (args === '' || hasPlaceholder(owner));
    return isOver && !(isRepeated && !touched.has(owner)) ? begin() : owner;
  };

  const addFragment = (fragment: ToolCallDelta, touched: Set<Call>): void => {
    const id = textOf(fragment.id);
    const name = textOf(fragment.function?.name);
    const index = typeof fragment.index === 'number' ? fragment.index : undefined;
    const args = argumentText(fragment.function?.arguments);
    const call = callOf({ id, name, index, args }, touched);
    touched.add(call);
    current = call;
    const extra = fragment.extra_content;
    if (typeof extra === 'object' && extra !== null) call.extraContent = { ...call.extraContent, ...extra };
    if (id !== '') {
      byId.set(id, call);
      if (call.index === undefined) call.id ||= id;
    }
    if (index !== undefined) byIndex.set(index, call);
    if (call.index === undefined && name !== call.name) call.name += name;
    else if (name !== '' && name !== call.name) parts.anomaly('tool_name');
    addArguments(call, args);
  };

  const addArguments = (call: Call, args: string): void => {
    if (args === '') return;
    // Parsed only if they may be complete, because that costs more with each fragment.
    call.isComplete = args.trimEnd().endsWith('}') ? undefined : false;
    if (call.index !== undefined) {
      call.args += args;
      parts.toolCall({ type: 'tool_call', index: call.index, arguments: args });
      return;
    }
    call.args = hasPlaceholder(call) ? args : call.args + args;
    if (call.args.length > MAX_EVENT_CHARS) throw tooLargeError();
    if (call.name !== '' && !hasPlaceholder(call)) sendHead(call);
  };

  const sendHead = (call: Call): void => {
    call.index = sentCount++;
    const { index, id, name, args } = call;
    if (id.length > MAX_ID_CHARS) {
      throw new ProviderError('upstream_protocol', { reason: 'tool_call_id_too_long', retryable: false });
    }
    parts.toolCall({ type: 'tool_call', index, ...(id !== '' && { id }), name, arguments: args });
  };

  return {
    get count() {
      return calls.length;
    },
    add(fragments) {
      const touched = new Set<Call>();
      for (const fragment of fragments) if (fragment) addFragment(fragment, touched);
    },
    complete(index) {
      const call = byIndex.get(index);
      if (call !== undefined && call.index === undefined && call.name !== '') sendHead(call);
    },
    addWhole({ id, name, arguments: args }) {
      const call = begin();
      Object.assign(call, { id: textOf(id), name: textOf(name), args: argumentText(args) });
      if (call.name !== '') sendHead(call);
    },
    flush() {
      for (const call of calls) {
        if (call.index !== undefined) continue;
        if (call.name === '') {
          throw new ProviderError('upstream_protocol', { reason: 'tool_call_without_name', retryable: true });
        }
        sendHead(call);
      }
    },
    extraContent() {
      const entries = calls.map(({ id, index, extraContent = isMarkedId(id) ? {} : undefined }) => [
        index,
        extraContent,
      ]);
      return Object.fromEntries(entries.filter(([, extra]) => extra !== undefined));
    },
  };
}

function hasPlaceholder({ args }: Call): boolean {
  return args.length <= MAX_PLACEHOLDER_CHARS && args.trim() === PLACEHOLDER;
}

function isComplete(call: Call): boolean {
  call.isComplete ??= isJson(call.args);
  return call.isComplete;
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : typeof value === 'number' ? String(value) : '';
}

/** Returns the arguments as JSON text. A few servers send an object. */
function argumentText(value: unknown): string {
  if (typeof value === 'string') return value;
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : '';
}
