import type { ChatMessage, ChatRequest, ProviderState, ToolChoice, UserContent } from '../types.ts';
import { parseDataUrl } from './data-url.ts';
import { hasPenalties, needsSignature, thinkingConfigOf } from './gemini-models.ts';
import { parseObject } from './json.ts';
import { sortToolResults, withoutBlankText } from './messages.ts';
import { forwardedOptions, renamedOptions } from './passed-options.ts';
import { jsonFormatOf } from './response-format.ts';

interface Content {
  readonly role: 'user' | 'model';
  readonly parts: object[];
}

/**
 * Placeholder for the thought signature of an earlier tool call. Since Gemini 3, models reject a step whose
 * first call has no signature: https://ai.google.dev/gemini-api/docs/thought-signatures
 */
const PLACEHOLDER_SIGNATURE = { thoughtSignature: 'skip_thought_signature_validator' };

/** Names of options in `generationConfig`, by their names in Chat Completions. */
const CONFIG_NAMES = { seed: 'seed', top_k: 'topK' };
const PENALTY_NAMES = { presence_penalty: 'presencePenalty', frequency_penalty: 'frequencyPenalty' };

/**
 * Returns the body of a `streamGenerateContent` request. Rules for single models are in `gemini-models.ts`.
 * @throws ProviderError for an invalid `data:` URL
 */
export function geminiBody(request: ChatRequest): Record<string, unknown> {
  const system = request.messages.flatMap((message) => (message.role === 'system' ? [{ text: message.content }] : []));
  const thinkingConfig = thinkingConfigOf(request);
  const generationConfig = {
    ...(request.temperature !== undefined && { temperature: request.temperature }),
    ...(request.topP !== undefined && { topP: request.topP }),
    ...(request.maxTokens !== undefined && { maxOutputTokens: request.maxTokens }),
    ...(request.stop !== undefined && { stopSequences: request.stop }),
    ...renamedOptions(request, CONFIG_NAMES),
    ...(hasPenalties(request.model) && renamedOptions(request, PENALTY_NAMES)),
    ...formatFields(request),
    ...(thinkingConfig !== undefined && { thinkingConfig }),
  };
  return {
    contents: toContents(request.messages, needsSignature(request.model)),
    ...(system.length > 0 && { systemInstruction: { parts: system } }),
    ...(Object.keys(generationConfig).length > 0 && { generationConfig }),
    ...(request.tools !== undefined && { tools: [{ functionDeclarations: request.tools.map(functionDeclaration) }] }),
    ...(request.toolChoice !== undefined && {
      toolConfig: { functionCallingConfig: callingConfig(request.toolChoice) },
    }),
    ...forwardedOptions(request),
  };
}

function formatFields({ options }: ChatRequest): object {
  const format = jsonFormatOf(options);
  if (format === undefined) return {};
  return { responseMimeType: 'application/json', ...(format.schema && { responseJsonSchema: format.schema }) };
}

/**
 * Returns a function declaration. `parametersJsonSchema` accepts all of JSON schema, `parameters` only a
 * subset.
 */
function functionDeclaration({ parameters, strict: _, ...tool }: NonNullable<ChatRequest['tools']>[number]): object {
  return { ...tool, ...(parameters !== undefined && { parametersJsonSchema: parameters }) };
}

/** Merges adjacent messages of one role, because all tool results of one step must be in one content. */
function toContents(messages: readonly ChatMessage[], isSignatureNeeded: boolean): Content[] {
  const contents: Content[] = [];
  for (const message of sortToolResults(messages)) {
    const parts = partsOf(message, isSignatureNeeded);
    if (parts.length === 0) continue;
    const role = message.role === 'assistant' ? 'model' : 'user';
    const last = contents.at(-1);
    if (last?.role === role) last.parts.push(...parts);
    else contents.push({ role, parts });
  }
  return contents;
}

function partsOf(message: ChatMessage, isSignatureNeeded: boolean): object[] {
  if (message.role === 'system') return [];
  if (message.role === 'tool') {
    return [{ functionResponse: { name: message.name, response: toolResponse(message.content) } }];
  }
  if (typeof message.content !== 'string') {
    return withoutBlankText(message.content).map(userPart);
  }
  const text = message.content === '' ? [] : [{ text: message.content }];
  if (message.role === 'user' || message.toolCalls === undefined) return text;
  return [
    ...text,
    ...message.toolCalls.map(({ name, arguments: args }, i) => ({
      functionCall: { name, args: parseObject(args) },
      ...(signatureOf(message.state, i) ?? (isSignatureNeeded && i === 0 && PLACEHOLDER_SIGNATURE)),
    })),
  ];
}

/** Returns the signature of a tool call, which the decoder has read from the same part. */
function signatureOf(state: ProviderState | undefined, index: number): object | undefined {
  const google = state?.extraContent?.[index]?.google as { thought_signature?: unknown } | null | undefined;
  const signature = google?.thought_signature;
  return typeof signature === 'string' && signature !== '' ? { thoughtSignature: signature } : undefined;
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

function userPart(block: UserContent): object {
  if (block.type === 'text') return { text: block.text };
  const inlineData = parseDataUrl(block.url);
  if (inlineData) return { inlineData };
  const mimeType = block.type === 'file' ? block.mimeType : imageType(block.url);
  return { fileData: { fileUri: block.url, mimeType } };
}

/** Returns the media type of an image by the extension of its path. */
function imageType(url: string): string {
  const path = URL.canParse(url) ? new URL(url).pathname : '';
  const extension = path.slice(path.lastIndexOf('.') + 1).toLowerCase();
  return IMAGE_TYPES[extension] ?? 'image/jpeg';
}

function callingConfig(choice: ToolChoice): object {
  if (typeof choice !== 'string') return { mode: 'ANY', allowedFunctionNames: [choice.name] };
  return { mode: { auto: 'AUTO', none: 'NONE', required: 'ANY' }[choice] };
}
