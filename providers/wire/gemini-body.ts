import type { ChatMessage, ChatRequest, ToolChoice } from '../types.ts';
import { parseDataUrl } from './data-url.ts';
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
  const generationConfig = {
    ...(request.temperature !== undefined && { temperature: request.temperature }),
    ...(request.topP !== undefined && { topP: request.topP }),
    ...(request.maxTokens !== undefined && { maxOutputTokens: request.maxTokens }),
    ...(request.stop !== undefined && { stopSequences: request.stop }),
  };
  return {
    contents: toContents(request.messages, !/gemini-[12]\b/.test(request.model)),
    ...(system.length > 0 && { systemInstruction: { parts: system } }),
    ...(Object.keys(generationConfig).length > 0 && { generationConfig }),
    ...(request.tools !== undefined && { tools: [{ functionDeclarations: request.tools.map(functionDeclaration) }] }),
    ...(request.toolChoice !== undefined && {
      toolConfig: { functionCallingConfig: callingConfig(request.toolChoice) },
    }),
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
      block.type === 'text' ? { text: block.text } : imagePart(block.url),
    );
  }
  const text = message.content === '' ? [] : [{ text: message.content }];
  const toolCalls = message.role === 'assistant' ? (message.toolCalls ?? []) : [];
  return [
    ...text,
    ...toolCalls.map(({ name, arguments: args }, i) => ({
      functionCall: { name, args: parseObject(args) },
      ...(needsSignature && i === 0 && PLACEHOLDER_SIGNATURE),
    })),
  ];
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

function imagePart(url: string): object {
  const inlineData = parseDataUrl(url);
  if (inlineData) return { inlineData };
  const extension = /\.(\w+)(?:[?#].*)?$/.exec(url)?.[1]?.toLowerCase() ?? '';
  return { fileData: { fileUri: url, mimeType: IMAGE_TYPES[extension] ?? 'image/jpeg' } };
}

function callingConfig(choice: ToolChoice): object {
  if (typeof choice !== 'string') return { mode: 'ANY', allowedFunctionNames: [choice.name] };
  return { mode: { auto: 'AUTO', none: 'NONE', required: 'ANY' }[choice] };
}
