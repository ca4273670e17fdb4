import type { EventMessage } from 'fastify';
import type { ContentPart, ProviderState, Slice, Stream, Terminal } from '../../plugins/streams/api.ts';
import { jsonEvent } from '../sse-events.ts';

/** Encodes an answer as the Vercel AI SDK's UI message stream. Each part has a start, deltas and an end. */

/** The AI SDK's finish reasons that differ from `stop`. */
const REASONS: Readonly<Record<string, string>> = {
  length: 'length',
  tool_calls: 'tool-calls',
  content_filter: 'content-filter',
  other: 'other',
};

type ToolPart = Extract<ContentPart, { type: 'tool_call' }>;

/**
 * Returns the first chunks.
 * @param urls sent as `message.metadata`, so that a page can stop the answer
 * @param messageId the message that the answer extends
 */
export function openingChunks(stream: Stream, urls: { url: string; stopUrl: string }, messageId: string): object[] {
  const messageMetadata = { stream: stream.id, ...urls, model: stream.model };
  return [{ type: 'start', messageId, messageMetadata }, { type: 'start-step' }];
}

/** Encodes a stream as events that are numbered, and leaves out those that the client has. */
export interface ChunkEncoder {
  /** Number of chunks so far, with those that were left out. */
  readonly count: number;
  /** Numbers the first chunks. */
  number(chunks: readonly object[]): EventMessage[];
  /** Encodes the next slice. Its parts must be whole appends. */
  encode(slice: Slice): EventMessage[];
}

/**
 * Returns the encoder of one response. The id of an event has the number of chunks up to it: `<stream>.c<number>`. That of
 * the last event is `<stream>.end`.
 * @param skipped number of chunks that the client has
 */
export function createChunkEncoder(stream: string, skipped = 0): ChunkEncoder {
  const chunksOf = createChunks();
  let count = 0;
  const number = (chunks: readonly object[]): EventMessage[] =>
    chunks.flatMap((chunk) => {
      count += 1;
      return count > skipped ? [{ ...jsonEvent(chunk), id: `${stream}.c${count}` }] : [];
    });
  return {
    get count() {
      return count;
    },
    number,
    encode(slice) {
      const events = number(chunksOf(slice));
      if (slice.terminal !== undefined) events.push({ data: '[DONE]', id: `${stream}.end` });
      return events;
    },
  };
}

/** Returns a function that returns the chunks of the next slice. */
function createChunks(): (slice: Slice) => object[] {
  const calls = new Map<number, { toolCallId: string; toolName: string; text: string }>();
  let open: { type: 'text' | 'reasoning'; id: string } | undefined;
  let count = 0;

  const close = () => {
    const last = open;
    open = undefined;
    return last ? [{ type: `${last.type}-end`, id: last.id }] : [];
  };

  const onText = (type: 'text' | 'reasoning', delta: string): object[] => {
    if (open?.type === type) return [{ type: `${type}-delta`, id: open.id, delta }];
    const ended = close();
    open = { type, id: `${type}-${count++}` };
    return [...ended, { type: `${type}-start`, id: open.id }, { type: `${type}-delta`, id: open.id, delta }];
  };

  const onCall = (part: ToolPart): object[] => {
    const chunks: object[] = close();
    let call = calls.get(part.index);
    if (call === undefined) {
      call = { toolCallId: part.id ?? '', toolName: part.name ?? '', text: '' };
      calls.set(part.index, call);
      chunks.push({ type: 'tool-input-start', toolCallId: call.toolCallId, toolName: call.toolName });
    }
    call.text += part.arguments;
    if (part.arguments === '') return chunks;
    return [...chunks, { type: 'tool-input-delta', toolCallId: call.toolCallId, inputTextDelta: part.arguments }];
  };

  /** Ends the message. Tool calls are sent here once more, because only complete ones can run. */
  const onEnd = (terminal: Terminal): object[] => {
    if (terminal.type === 'error') return [...close(), { type: 'error', errorText: terminal.message }];
    const { finishReason, usage, state } = terminal;
    const ready = [...calls].map(([index, { text, ...call }]) => ({
      ...toolInputChunk(call, text, finishReason),
      ...(state && metadataOf(state, index)),
    }));
    const finish = {
      type: 'finish',
      finishReason: REASONS[finishReason] ?? 'stop',
      ...(usage && { messageMetadata: { usage } }),
    };
    return [...close(), ...ready, { type: 'finish-step' }, finish];
  };

  return ({ parts, terminal }) => {
    const chunks = parts.flatMap(({ part }) =>
      part.type === 'tool_call' ? onCall(part) : onText(part.type, part.text),
    );
    return terminal === undefined ? chunks : [...chunks, ...onEnd(terminal)];
  };
}

/**
 * Returns the provider's state for one tool call; the first call has what belongs to all. The AI SDK sends it back as
 * `callProviderMetadata`.
 */
function metadataOf({ provider, details, extraContent }: ProviderState, index: number): object {
  const content = extraContent?.[index];
  if (index > 0 && content === undefined) return {};
  const sluice = { provider, ...(index === 0 && details && { details }), ...(content && { extraContent: content }) };
  return { providerMetadata: { sluice } };
}

/** Returns a call that the page runs, or an error for a call that was cut off. */
function toolInputChunk(call: { toolCallId: string; toolName: string }, text: string, finishReason: string): object {
  const isCutOff = finishReason === 'stopped' || (finishReason === 'length' && text === '');
  try {
    if (isCutOff) throw new SyntaxError('cut off');
    return { type: 'tool-input-available', ...call, input: JSON.parse(text === '' ? '{}' : text) };
  } catch {
    const errorText = 'The arguments of this call are not complete.';
    return { type: 'tool-input-error', ...call, input: text, errorText };
  }
}
