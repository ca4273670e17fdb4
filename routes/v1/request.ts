import type { Question } from '../../plugins/streams/api.ts';
import type { ChatBody, ChatMessage } from './schema.ts';

/** Converts a Chat Completions request to a question. */

type Message = Question['messages'][number];

/** Sent unchanged to providers that speak Chat Completions. None of them can name a URL, a header or a key. */
const FORWARDED_FIELDS = [
  'frequency_penalty',
  'logit_bias',
  'min_p',
  'parallel_tool_calls',
  'presence_penalty',
  'reasoning_effort',
  'repetition_penalty',
  'response_format',
  'seed',
  'thinking',
  'enable_thinking',
  'top_k',
  'user',
  'verbosity',
];

/** Refused, because they would change the answer in a way that a stream of parts cannot hold. */
const UNSUPPORTED_FIELDS = [
  'audio',
  'function_call',
  'functions',
  'logprobs',
  'prediction',
  'top_logprobs',
  'web_search_options',
];

/** @throws the error that `invalid` returns, for options and content that are not supported */
export function toQuestion(body: ChatBody, invalid: (message: string) => Error): Question {
  const given = body as ChatBody & Record<string, unknown>;
  const name = UNSUPPORTED_FIELDS.find((field) => isSet(given[field]) && given[field] !== false && given[field] !== 0);
  if (name !== undefined) throw invalid(`${name} is not supported.`);
  if (isSet(given.n) && given.n !== 1)
    throw invalid('n other than 1 is not supported; send one request for each answer.');
  if (Array.isArray(given.modalities) && given.modalities.some((one) => one !== 'text')) {
    throw invalid('modalities other than text are not supported.');
  }

  const infinite = FORWARDED_FIELDS.find((field) => typeof given[field] === 'number' && !Number.isFinite(given[field]));
  if (infinite !== undefined) throw invalid(`${infinite} is too large.`);

  const options = Object.fromEntries(
    FORWARDED_FIELDS.filter((field) => isSet(given[field])).map((field) => [field, given[field]]),
  );
  const maxTokens = body.max_completion_tokens ?? body.max_tokens;
  const stop = typeof body.stop === 'string' ? [body.stop] : body.stop;
  return {
    model: body.model ?? undefined,
    messages: messagesOf(body.messages, invalid),
    ...(isSet(body.temperature) && { temperature: body.temperature }),
    ...(isSet(body.top_p) && { topP: body.top_p }),
    ...(isSet(maxTokens) && { maxTokens }),
    ...(stop?.length && { stop }),
    ...(body.tools?.length && { tools: body.tools.map(toolOf) }),
    ...(body.tools?.length && isSet(body.tool_choice) && { toolChoice: choiceOf(body.tool_choice) }),
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

function choiceOf(choice: NonNullable<ChatBody['tool_choice']>) {
  return typeof choice === 'string' ? choice : { name: choice.function.name };
}

function messagesOf(messages: readonly ChatMessage[], invalid: (message: string) => Error): Message[] {
  /** Names of earlier calls by id: some providers match a result by the name of its tool. */
  const names = new Map<string, string>();
  return messages.map((message, i) => {
    const at = `body.messages.${i}`;
    if (message.role === 'user') return { role: 'user', content: userContent(message, at, invalid) };
    const content = textOf(message, at, invalid);
    if (message.role === 'system' || message.role === 'developer') return { role: 'system', content };
    if (message.role === 'tool') {
      const toolCallId = message.tool_call_id ?? '';
      const name = names.get(toolCallId);
      if (name === undefined) throw invalid(`${at}.tool_call_id must be the id of an earlier tool call.`);
      return { role: 'tool', content, toolCallId, name };
    }
    const toolCalls = (message.tool_calls ?? []).map(({ id, function: call }) => {
      names.set(id, call.name);
      return { id, name: call.name, arguments: call.arguments };
    });
    if (toolCalls.length === 0) return { role: 'assistant', content };
    const { reasoning_content: reasoning } = message;
    return { role: 'assistant', content, ...(reasoning && { reasoning }), toolCalls };
  });
}

function userContent({ content }: ChatMessage, at: string, invalid: (message: string) => Error) {
  if (typeof content === 'string') return content;
  return (content ?? []).map((part, i) => {
    if (part.type === 'text' && isSet(part.text)) return { type: 'text' as const, text: part.text };
    if (part.type === 'image_url' && part.image_url) {
      const { url, detail } = part.image_url;
      return { type: 'image' as const, url, ...(detail && { detail }) };
    }
    throw invalid(`${at}.content.${i} must be text or an image_url.`);
  });
}

function textOf({ content }: ChatMessage, at: string, invalid: (message: string) => Error): string {
  if (typeof content === 'string') return content;
  const texts = (content ?? []).map((part, i) => {
    if (part.type === 'text' || part.type === 'refusal') return part.text ?? part.refusal ?? '';
    throw invalid(`${at}.content.${i} must be text; only user messages may contain images.`);
  });
  return texts.join('\n');
}
