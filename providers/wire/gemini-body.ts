import type { ChatMessage, ChatRequest, ToolChoice, UserContent } from '../types.ts';
import { parseDataUrl } from './data-url.ts';
import { geminiThinking } from './gemini-thinking.ts';
import { parseObject } from './json.ts';
import { sortToolResults, withoutBlankText } from './messages.ts';

interface Content {
  readonly role: 'user' | 'model';
  readonly parts: object[];
}

/**
 * Placeholder for the thought signature of an earlier tool call. Since Gemini 3, models reject a step whose
 * first call has no signature: https://ai.google.dev/gemini-api/docs/thought-signatures
 */
const PLACEHOLDER_SIGNATURE = { thoughtSignature: 'skip_thought_signature_validator' };

/** Returns the body of a `streamGenerateContent` request. @throws ProviderError for an invalid `data:` URL */
export function geminiBody(request: ChatRequest): Record<string, unknown> {
  const system = request.messages.flatMap((message) => (message.role === 'system' ? [{ text: message.content }] : []));
  const { options = {} } = request;
  const generationConfig = {
    ...configOf(options),
    ...(request.temperature !== undefined && { temperature: request.temperature }),
    ...(request.topP !== undefined && { topP: request.topP }),
    ...(request.maxTokens !== undefined && { maxOutputTokens: request.maxTokens }),
    ...(request.stop !== undefined && { stopSequences: request.stop }),
    ...geminiThinking(request),
  };
  return {
    ...Object.fromEntries((request.forward ?? []).flatMap((name) => (name in options ? [[name, options[name]]] : []))),
    contents: toContents(request.messages, !/gemini-[12]\b/.test(request.model)),
    ...(system.length > 0 && { systemInstruction: { parts: system } }),
    ...(Object.keys(generationConfig).length > 0 && { generationConfig }),
    ...(request.tools !== undefined && { tools: [{ functionDeclarations: request.tools.map(functionDeclaration) }] }),
    ...(request.toolChoice !== undefined && {
      toolConfig: { functionCallingConfig: callingConfig(request.toolChoice) },
    }),
  };
}

/** Options of Chat Completions, and their names in the configuration of a generation. */
const CONFIG_NAMES: Readonly<Record<string, string>> = {
  seed: 'seed',
  top_k: 'topK',
  presence_penalty: 'presencePenalty',
  frequency_penalty: 'frequencyPenalty',
};

function configOf(options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const known = Object.entries(CONFIG_NAMES).filter(([name]) => options[name] !== undefined);
  const format = options.response_format as { type?: string; json_schema?: { schema?: unknown } } | undefined;
  const isJson = format?.type === 'json_object' || format?.type === 'json_schema';
  return {
    ...Object.fromEntries(known.map(([name, ownName]) => [ownName, options[name]])),
    ...(isJson && { responseMimeType: 'application/json' }),
    ...(format?.type === 'json_schema' && { responseJsonSchema: format.json_schema?.schema ?? {} }),
  };
}

/**
 * Returns a function declaration. `parametersJsonSchema` accepts all of JSON schema, `parameters` only a
 * subset.
 */
function functionDeclaration({ parameters, strict: _, ...tool }: NonNullable<ChatRequest['tools']>[number]): object {
  return { ...tool, ...(parameters !== undefined && { parametersJsonSchema: parameters }) };
}

/** Merges adjacent messages of one role, because all tool results of one step must be in one content. */
function toContents(messages: readonly ChatMessage[], needsSignature: boolean): Content[] {
  const contents: Content[] = [];
  for (const message of sortToolResults(messages)) {
    const parts = partsOf(message, needsSignature);
    if (parts.length === 0) continue;
    const role = message.role === 'assistant' ? 'model' : 'user';
    const last = contents.at(-1);
    if (last?.role === role) last.parts.push(...parts);
    else contents.push({ role, parts });
  }
  return contents;
}

function partsOf(message: ChatMessage, needsSignature: boolean): object[] {
  if (message.role === 'system') return [];
  if (message.role === 'tool') {
    return [{ functionResponse: { name: message.name, response: toolResponse(message.content) } }];
  }
  if (typeof message.content !== 'string') {
    return withoutBlankText(message.content).map((block) =>
      block.type === 'text' ? { text: block.text } : filePart(block),
    );
  }
  const text = message.content === '' ? [] : [{ text: message.content }];
  const toolCalls = message.role === 'assistant' ? (message.toolCalls ?? []) : [];
  return [
    ...text,
    ...toolCalls.map(({ name, arguments: args }, i) => ({
      functionCall: { name, args: parseObject(args) },
      ...(needsSignature && i === 0 && PLACEHOLDER_SIGNATURE),
      ...signatureOf(message, i),
    })),
  ];
}

/** Returns the thought signature that came with a tool call. */
function signatureOf(message: ChatMessage, call: number): object {
  const content = message.role === 'assistant' ? message.state?.extraContent?.[call] : undefined;
  const signature = (content?.google as { thought_signature?: unknown } | undefined)?.thought_signature;
  return typeof signature === 'string' ? { thoughtSignature: signature } : {};
}

/** Returns a tool result as an object, which the API requires. */
function toolResponse(content: string): object {
  const object = parseObject(content);
  return Object.keys(object).length > 0 ? object : { result: content };
}

const IMAGE_TYPES: Readonly<Record<string, string>> = {
  png: 'image/png',
  webp: 'image/webp',
  gif: 'image/gif',
  heic: 'image/heic',
  heif: 'image/heif',
};

function filePart(block: Exclude<UserContent, { type: 'text' }>): object {
  const inlineData = parseDataUrl(block.url);
  if (inlineData) return { inlineData };
  const mimeType = block.type === 'file' ? block.mimeType : imageTypeOf(block.url);
  return { fileData: { fileUri: block.url, mimeType } };
}

/** Returns the media type of an image by the extension of its URL. */
function imageTypeOf(url: string): string {
  const path = URL.canParse(url) ? new URL(url).pathname : '';
  return IMAGE_TYPES[path.slice(path.lastIndexOf('.') + 1).toLowerCase()] ?? 'image/jpeg';
}

function callingConfig(choice: ToolChoice): object {
  if (typeof choice !== 'string') return { mode: 'ANY', allowedFunctionNames: [choice.name] };
  return { mode: { auto: 'AUTO', none: 'NONE', required: 'ANY' }[choice] };
}
