import type { EventMessage } from 'fastify';
import type { ContentPart, ProviderState, Slice, Stream, Terminal } from '../../plugins/streams/api.ts';
import { detailsForClient, extraContentForClient } from '../provider-state.ts';
import { jsonEvent } from '../sse-events.ts';

/** Encodes an answer as OpenAI's clients read it: in chunks, or whole. */

type End = Extract<Terminal, { type: 'end' }>;
type Failure = Extract<Terminal, { type: 'error' }>;

export interface AnswerOptions {
  /** True if a last chunk reports the tokens. */
  readonly includeUsage: boolean;
  /** Returns a failure in the form that the SDKs turn into an exception. */
  failure(terminal: Failure): object;
}

export interface ChunkEncoder {
  /** Returns the chunks of a slice. */
  encode(slice: Slice): EventMessage[];
  /**
   * Returns a chunk without content, for a silence. A comment would do, but go-openai adds comments to the error that
   * follows them and then cannot read it. The first chunk has the role, which LangChain takes from there.
   */
  heartbeat(): EventMessage;
}

/** Creates an encoder of the slices of a stream as chunks. */
export function createChunkEncoder(stream: Stream, { includeUsage, failure }: AnswerOptions): ChunkEncoder {
  const shared = { ...commonFields(stream), object: 'chat.completion.chunk' };
  // What all chunks have in common is serialized once.
  const before = `${JSON.stringify(shared).slice(0, -1)},"choices":[{"index":0,"delta":`;
  const after = includeUsage ? '}],"usage":null}' : '}]}';
  let hasBegun = false;

  const chunk = (delta: object, finishReason: string | null = null): EventMessage => ({
    data: `${before}${JSON.stringify(delta)},"logprobs":null,"finish_reason":${JSON.stringify(finishReason)}${after}`,
  });
  const opening = () => {
    if (hasBegun) return [];
    hasBegun = true;
    return [chunk({ role: 'assistant', content: '' })];
  };

  const encode = ({ parts, terminal }: Slice): EventMessage[] => {
    if (terminal?.type === 'error') return [...chunksOf(parts), jsonEvent(failure(terminal))];
    const events = [...opening(), ...chunksOf(parts)];
    if (terminal === undefined) return events;
    if (terminal.state) events.push(chunk(stateDelta(terminal.state)));
    events.push(chunk({}, toFinishReason(terminal)));
    const usage = toUsage(terminal);
    if (includeUsage && usage) events.push(jsonEvent({ ...shared, choices: [], usage }));
    return [...events, { data: '[DONE]' }];
  };

  return { encode, heartbeat: () => opening()[0] ?? chunk({}) };

  function chunksOf(parts: Slice['parts']): EventMessage[] {
    return parts.length === 0 ? [] : [...opening(), ...parts.map(({ part }) => chunk(toDelta(part)))];
  }
}

/** Collects slices into one `chat.completion`. */
export function createCompletionCollector(stream: Stream) {
  let reasoning = '';
  let refusal = '';
  /** The text without the refusal. */
  let text = '';
  const calls = new Map<number, Call>();

  return {
    add({ parts }: Slice): void {
      for (const { part } of parts) {
        if (part.type === 'reasoning') reasoning += part.text;
        else if (part.type === 'text' && part.isRefusal) refusal += part.text;
        else if (part.type === 'text') text += part.text;
        if (part.type !== 'tool_call') continue;
        const call = calls.get(part.index) ?? {
          id: part.id ?? '',
          type: 'function',
          function: { name: '', arguments: '' },
        };
        calls.set(part.index, call);
        call.function.name ||= part.name ?? '';
        call.function.arguments += part.arguments;
      }
    },
    completion(terminal: End): object {
      const usage = toUsage(terminal);
      const { state } = terminal;
      const details = state && detailsForClient(state);
      const toolCalls = [...calls].map(([index, call]) => {
        const content = state && extraContentForClient(state, index);
        return content ? { ...call, extra_content: content } : call;
      });
      const message = {
        role: 'assistant',
        content: text === '' && (calls.size > 0 || refusal !== '') ? null : text,
        refusal: refusal === '' ? null : refusal,
        ...(reasoning !== '' && { reasoning_content: reasoning }),
        ...(details && { reasoning_details: details }),
        ...(calls.size > 0 && { tool_calls: toolCalls }),
      };
      return {
        ...commonFields(stream),
        object: 'chat.completion',
        choices: [{ index: 0, message, logprobs: null, finish_reason: toFinishReason(terminal) }],
        ...(usage && { usage }),
      };
    },
  };
}

interface Call {
  readonly id: string;
  readonly type: 'function';
  readonly function: { name: string; arguments: string };
}

/** Returns the delta that carries the provider's state. It comes once, behind the tool calls. */
function stateDelta(state: ProviderState): object {
  const details = detailsForClient(state);
  const calls = Object.keys(state.extraContent ?? {}).map((index) => ({
    index: Number(index),
    function: { arguments: '' },
    extra_content: extraContentForClient(state, Number(index)),
  }));
  return { ...(details && { reasoning_details: details }), ...(calls.length > 0 && { tool_calls: calls }) };
}

function commonFields({ id, model }: Stream) {
  return { id: `chatcmpl-${id}`, created: Math.floor(Date.now() / 1000), model };
}

function toDelta(part: ContentPart): object {
  if (part.type !== 'tool_call') {
    if (part.type === 'reasoning') return { reasoning_content: part.text };
    return part.isRefusal ? { refusal: part.text } : { content: part.text };
  }
  const call =
    part.id === undefined
      ? { function: { arguments: part.arguments } }
      : { id: part.id, type: 'function', function: { name: part.name ?? '', arguments: part.arguments } };
  return { tool_calls: [{ index: part.index, ...call }] };
}

function toFinishReason({ finishReason }: End): string {
  // OpenAI has no word for a reason that Sluice does not know. `stop` would claim a success.
  return finishReason === 'stopped' ? 'stop' : finishReason;
}

function toUsage({ usage }: End): object | undefined {
  if (usage === undefined) return undefined;
  const { inputTokens = 0, outputTokens = 0, totalTokens = inputTokens + outputTokens } = usage;
  const { cachedTokens, reasoningTokens, cost } = usage;
  return {
    prompt_tokens: inputTokens,
    completion_tokens: outputTokens,
    total_tokens: totalTokens,
    ...(cachedTokens !== undefined && { prompt_tokens_details: { cached_tokens: cachedTokens } }),
    ...(reasoningTokens !== undefined && { completion_tokens_details: { reasoning_tokens: reasoningTokens } }),
    ...(cost !== undefined && { cost }),
  };
}
