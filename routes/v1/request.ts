import type { Question } from '../../plugins/streams/api.ts';
import { stateFromClient } from '../provider-state.ts';
import { optionsOf } from './options.ts';
import type { ChatBody, ChatMessage } from './schema.ts';

/** Converts a Chat Completions request to a question. */

type Message = Question['messages'][number];
type Invalid = (message: string, param?: string) => Error;

/** @throws the error that `invalid` returns, for options and content that are not supported */
export function toQuestion(body: ChatBody, invalid: Invalid): Question {
  const options = optionsOf(body, invalid);
  const maxTokens = body.max_completion_tokens ?? body.max_tokens;
  const stop = typeof body.stop === 'string' ? [body.stop] : body.stop;
  return {
    model: body.model ?? undefined,
    messages: messagesOf(body.messages, invalid),
    ...(isSet(body.temperature) && { temperature: body.temperature }),
    ...(isSet(body.top_p) && { topP: body.top_p }),
    ...(isSet(maxTokens) && { maxTokens }),
    ...(stop?.length && { stop }),
    ...toolsOf(body, invalid),
    ...(Object.keys(options).length > 0 && { options }),
  };
}

function isSet<T>(value: T): value is NonNullable<T> {
  return value !== undefined && value !== null;
}

function toolOf({ function: tool }: NonNullable<ChatBody['tools']>[number]) {
  const { name, description, parameters, strict } = tool;
  return { name, ...(description && { description }), ...(parameters && { parameters }), ...(strict && { strict }) };
}

/** Returns the tools and the choice. `allowed_tools` leaves out the other tools, because few APIs have it. */
function toolsOf({ tools, tool_choice: choice }: ChatBody, invalid: Invalid): Pick<Question, 'tools' | 'toolChoice'> {
  if (!tools?.length) return {};
  const all = tools.map(toolOf);
  if (!isSet(choice)) return { tools: all };
  if (typeof choice === 'string') return { tools: all, toolChoice: choice };
  if (choice.type === 'function') return { tools: all, toolChoice: { name: choice.function.name } };
  const { mode, tools: allowed } = choice.allowed_tools;
  const names = allowed.map((tool) => tool.function.name);
  const known = new Set(all.map(({ name }) => name));
  const missing = names.findIndex((name) => !known.has(name));
  if (missing >= 0) {
    const param = `tool_choice.allowed_tools.tools[${missing}]`;
    throw invalid(`body.tool_choice.allowed_tools.tools.${missing} must name one of the tools.`, param);
  }
  return { tools: all.filter(({ name }) => names.includes(name)), toolChoice: mode };
}

function messagesOf(messages: readonly ChatMessage[], invalid: Invalid): Message[] {
  /** Names of earlier calls by id: some providers match a result by the name of its tool. */
  const names = new Map<string, string>();
  return messages.map((message, i) => {
    const at = `body.messages.${i}`;
    const name = message.name ? { name: message.name } : {};
    if (message.role === 'user') return { role: 'user', content: userContent(message, at, invalid), ...name };
    const content = textOf(message, at, invalid);
    if (message.role === 'system' || message.role === 'developer') {
      const cacheControl = cacheControlOf(message);
      return { role: 'system', content, ...name, ...(cacheControl && { cacheControl }) };
    }
    if (message.role === 'tool') {
      const toolCallId = message.tool_call_id ?? '';
      const toolName = names.get(toolCallId);
      if (toolName === undefined) throw invalid(`${at}.tool_call_id must be the id of an earlier tool call.`);
      return { role: 'tool', content, toolCallId, name: toolName };
    }
    const calls = message.tool_calls ?? [];
    if (calls.length === 0) {
      if (!isSet(message.content) && !isSet(message.refusal)) {
        throw invalid(`${at}.content must be string or array, unless there are tool_calls or a refusal.`);
      }
      return { role: 'assistant', content, ...name };
    }
    const toolCalls = calls.map(({ id, function: call }) => {
      names.set(id, call.name);
      return { id, name: call.name, arguments: call.arguments };
    });
    const reasoning = message.reasoning_content ?? message.reasoning;
    const state = stateFromClient(
      message.reasoning_details ?? [],
      calls.map((call) => call.extra_content),
    );
    return { role: 'assistant', content, ...name, ...(reasoning && { reasoning }), toolCalls, ...(state && { state }) };
  });
}

function userContent({ content }: ChatMessage, at: string, invalid: Invalid) {
  if (typeof content === 'string') return content;
  return (content ?? []).map((part, i) => {
    const { cache_control: cacheControl } = part;
    if (part.type === 'text' && isSet(part.text)) {
      return { type: 'text' as const, text: part.text, ...(cacheControl && { cacheControl }) };
    }
    if (part.type === 'image_url' && part.image_url) {
      const { url, detail } = part.image_url;
      return { type: 'image' as const, url, ...(detail && { detail }) };
    }
    if (part.type === 'file' && part.file?.file_data) {
      const { file_data: url, filename } = part.file;
      return { type: 'file' as const, url, mimeType: 'application/pdf', ...(filename && { filename }) };
    }
    throw invalid(`${at}.content.${i} must be text, an image_url, or a file with file_data.`);
  });
}

/** Returns the text of a message. A refusal is text, too, because most APIs have no field for it. */
function textOf({ content, refusal }: ChatMessage, at: string, invalid: Invalid): string {
  if (typeof content === 'string') return content || (refusal ?? '');
  if (!content && refusal) return refusal;
  const texts = (content ?? []).map((part, i) => {
    if (part.type === 'text' || part.type === 'refusal') return part.text ?? part.refusal ?? '';
    throw invalid(`${at}.content.${i} must be text; only user messages may contain images and files.`);
  });
  return texts.join('\n');
}

/** Returns the mark of the last part that has one: the system text becomes one block. */
function cacheControlOf({ content }: ChatMessage): Readonly<Record<string, unknown>> | undefined {
  if (typeof content === 'string') return undefined;
  return content?.findLast(({ cache_control: mark }) => isSet(mark))?.cache_control ?? undefined;
}
