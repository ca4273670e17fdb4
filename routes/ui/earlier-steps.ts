import { decodeContext, encodeContext } from '../stream-context.ts';
import type { UiBody } from './schema.ts';

/**
 * The steps of an assistant's message before the answer that continues it, after a tool has run. A page that resumes
 * builds its message again, so a resumed stream has to bring them.
 */

type UiMessage = UiBody['messages'][number];

/** Data that a stream keeps of the question. */
export interface UiContext {
  /** Id of the page's message that the answer continues. */
  readonly messageId: string;
  /** Chunks of its earlier steps; absent if they are too large to keep. */
  readonly earlier?: readonly object[];
}

/** Most UTF-16 units of the chunks of earlier steps. Twice as many bytes count against `streams.maxTotalBytes`. */
const MAX_CONTEXT_UNITS = 65_536;

/** Returns the context of a question; undefined if its answer is a new message. */
export function contextOf(message: UiMessage | undefined): string | undefined {
  if (message?.role !== 'assistant' || message.id === undefined) return undefined;
  const messageId = message.id;
  const context = encodeUiContext({ messageId, earlier: chunksOf(message.parts) });
  return context.length > MAX_CONTEXT_UNITS ? encodeUiContext({ messageId }) : context;
}

function encodeUiContext(context: UiContext): string {
  return encodeContext('ui', context);
}

/** Returns the context of a stream that this API started; else undefined. */
export function parseContext(context: string | undefined): UiContext | undefined {
  return decodeContext<UiContext>('ui', context);
}

/** Fields of parts, as pages send them. */
interface Part {
  readonly type: string;
  readonly id?: unknown;
  readonly text?: unknown;
  readonly url?: unknown;
  readonly mediaType?: unknown;
  readonly sourceId?: unknown;
  readonly title?: unknown;
  readonly filename?: unknown;
  readonly data?: unknown;
  readonly toolCallId?: unknown;
  readonly toolName?: unknown;
  readonly state?: unknown;
  readonly input?: unknown;
  readonly output?: unknown;
  readonly errorText?: unknown;
  readonly approval?: { readonly id?: unknown } | null;
}

/** Returns the chunks from which the AI SDK builds these parts, of all versions since 5. */
function chunksOf(parts: readonly Part[]): object[] {
  const chunks: object[] = [];
  let isStepOpen = false;
  for (const [i, part] of parts.entries()) {
    if (part.type === 'step-start') {
      if (isStepOpen) chunks.push({ type: 'finish-step' });
      chunks.push({ type: 'start-step' });
      isStepOpen = true;
    } else chunks.push(...partChunks(part, `earlier-${i}`));
  }
  if (isStepOpen) chunks.push({ type: 'finish-step' });
  return chunks;
}

function partChunks(part: Part, id: string): object[] {
  const { type, text, url, mediaType, sourceId, title, filename, data } = part;
  if (type === 'text' || type === 'reasoning') {
    if (typeof text !== 'string') return [];
    const delta = text === '' ? [] : [{ type: `${type}-delta`, id, delta: text }];
    return [{ type: `${type}-start`, id }, ...delta, { type: `${type}-end`, id }];
  }
  if (type === 'file') return areText(url, mediaType) ? [{ type, url, mediaType }] : [];
  if (type === 'source-url') return areText(sourceId, url) ? [{ type, sourceId, url, ...texts({ title }) }] : [];
  if (type === 'source-document') {
    if (!areText(sourceId, mediaType, title)) return [];
    return [{ type, sourceId, mediaType, title, ...texts({ filename }) }];
  }
  if (type.startsWith('data-')) return [{ type, ...texts({ id: part.id }), data }];
  return toolChunks(part);
}

/**
 * Returns the chunks of a call and its result. The input comes as a delta: `tool-input-available` would call the page's
 * `onToolCall`, and the tool would run once more.
 */
function toolChunks({ type, toolCallId, toolName, state, input, output, errorText, approval }: Part): object[] {
  const isDynamic = type === 'dynamic-tool';
  const name = isDynamic ? toolName : /^tool-(.+)$/.exec(type)?.[1];
  if (typeof name !== 'string' || typeof toolCallId !== 'string') return [];
  const dynamic = isDynamic && { dynamic: true };
  const call = [
    { type: 'tool-input-start', toolCallId, toolName: name, ...dynamic },
    { type: 'tool-input-delta', toolCallId, inputTextDelta: JSON.stringify(input ?? {}) },
  ];
  if (state === 'output-available') return [...call, { type: 'tool-output-available', toolCallId, output, ...dynamic }];
  if (state === 'output-error') {
    return [...call, { type: 'tool-output-error', toolCallId, errorText: String(errorText ?? ''), ...dynamic }];
  }
  if (typeof approval?.id !== 'string') return call;
  const request = { type: 'tool-approval-request', approvalId: approval.id, toolCallId };
  const isDenied = isDeniedCall({ state, approval });
  return [...call, request, ...(isDenied ? [{ type: 'tool-output-denied', toolCallId }] : [])];
}

/** Returns true for a call that the person did not allow, whether the page has noted its result or not. */
export function isDeniedCall({ state, approval }: { readonly state?: unknown; readonly approval?: unknown }): boolean {
  if (state === 'output-denied') return true;
  return state === 'approval-responded' && (approval as { approved?: unknown } | undefined)?.approved === false;
}

function areText(...values: unknown[]): boolean {
  return values.every((value) => typeof value === 'string');
}

/** Returns the members that are text. */
function texts(members: Record<string, unknown>): object {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => typeof value === 'string'));
}
