import type { ProviderState, Question } from '../../plugins/streams/api.ts';
import { stateFromClient } from '../provider-state.ts';
import { textContent, userContent } from './content.ts';
import type { RunContentPart, RunInput, RunMessage } from './schema.ts';

/** Converts the input of a run to a question. */

type Message = Question['messages'][number];
type Invalid = (message: string) => Error;
type Content = string | readonly RunContentPart[];
type AskedCall = NonNullable<RunMessage['toolCalls']>[number];

/** @throws the error that `invalid` returns, for content that no prompt can hold, and for a result without its call */
export function toQuestion(input: RunInput, invalid: Invalid): Question {
  const { messages, tools, context, forwardedProps } = input;
  const { model, system, temperature, maxTokens, stop, reasoningEffort, toolChoice } = forwardedProps ?? {};
  return {
    model,
    messages: [
      ...(system === undefined ? [] : [{ role: 'system' as const, content: system }]),
      ...contextMessages(context),
      ...messagesOf(messages, invalid),
    ],
    ...(temperature !== undefined && { temperature }),
    ...(maxTokens !== undefined && { maxTokens }),
    ...(stop !== undefined && { stop }),
    ...(tools?.length && {
      tools: tools.map(({ name, description, parameters }) => ({
        name,
        ...(description && { description }),
        ...(parameters && { parameters }),
      })),
    }),
    ...(tools?.length && toolChoice !== undefined && { toolChoice }),
    ...(reasoningEffort !== undefined && { options: { reasoning_effort: reasoningEffort } }),
  };
}

/** Returns the context as CopilotKit's runtime gives it to a model: one system message. */
function contextMessages(context: RunInput['context'] = []): Message[] {
  if (context.length === 0) return [];
  const entries = context.map(({ description, value }) => `${description}:\n${value}`);
  return [{ role: 'system', content: ['## Context from the application', ...entries].join('\n\n') }];
}

function messagesOf(messages: readonly RunMessage[], invalid: Invalid): Message[] {
  const results = resultsOf(messages, invalid);
  let reasoning: string[] = [];
  return messages.flatMap((message, i): Message[] => {
    const at = `body.messages.${i}`;
    const content = message.content as Content | null | undefined;
    switch (message.role) {
      case 'user':
        return [{ role: 'user', content: userContent(content ?? '', at, invalid) }];
      case 'developer':
      case 'system':
        return [{ role: 'system', content: textContent(content, at, invalid) }];
      case 'reasoning':
        reasoning.push(textContent(content, at, invalid));
        return [];
      case 'assistant': {
        const before = reasoning.join('\n');
        reasoning = [];
        return assistantMessages(message, before, results);
      }
      default:
        // Results follow their calls, and activities are meant for the page.
        return [];
    }
  });
}

/** Returns the results of tools by the id of their call. @throws the error that `invalid` returns, for a result without its call */
function resultsOf(messages: readonly RunMessage[], invalid: Invalid): Map<string, string> {
  const calls = new Set<string>();
  const results = new Map<string, string>();
  for (const [i, { role, content, toolCalls = [], toolCallId = '', error = '' }] of messages.entries()) {
    if (role === 'assistant') for (const { id } of toolCalls) calls.add(id);
    if (role !== 'tool') continue;
    const at = `body.messages.${i}`;
    if (!calls.has(toolCallId)) throw invalid(`${at}.toolCallId must be the id of an earlier tool call.`);
    results.set(toolCallId, textContent(content as Content, at, invalid) || error);
  }
  return results;
}

/**
 * Returns a message of the assistant and the results of its calls: providers want them together, although clients may
 * send text between them. Calls without a result are left out, because providers refuse them.
 */
function assistantMessages(
  { content, toolCalls = [] }: RunMessage,
  reasoning: string,
  results: ReadonlyMap<string, string>,
): Message[] {
  const calls = toolCalls.filter(({ id }) => results.has(id));
  const text = typeof content === 'string' ? content : '';
  if (text === '' && calls.length === 0) return [];
  if (calls.length === 0) return [{ role: 'assistant', content: text }];
  const state = stateOf(calls);
  return [
    {
      role: 'assistant',
      content: text,
      toolCalls: calls.map(({ id, function: call }) => ({ id, name: call.name, arguments: call.arguments })),
      ...(reasoning && { reasoning }),
      ...(state && { state }),
    },
    ...calls.map(({ id, function: { name } }): Message => {
      return { role: 'tool', toolCallId: id, name, content: results.get(id) ?? '' };
    }),
  ];
}

type Fields = Readonly<Record<string, unknown>>;

/** Returns the provider's state as `events.ts` has sent it. The values of other servers are left out. */
function stateOf(calls: readonly AskedCall[]): ProviderState | undefined {
  const values = calls.map(({ encryptedValue }) => parseValue(encryptedValue));
  const details = values.flatMap((value) =>
    Array.isArray(value?.details)
      ? value.details.filter(isFields).map((detail) => ({ ...detail, provider: value.provider }))
      : [],
  );
  const contents = values.map((value) =>
    isFields(value?.extraContent) ? { ...value.extraContent, sluice: { provider: value.provider } } : undefined,
  );
  return stateFromClient(details, contents);
}

function parseValue(text: string | undefined): Fields | undefined {
  try {
    const value: unknown = JSON.parse(text ?? '');
    return isFields(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
