import type { ChatMessage, ChatRequest, ToolChoice } from '../types.ts';
import { inlineData } from './data-url.ts';
import { parseObject } from './json.ts';
import { sortToolResults, withoutBlankText } from './messages.ts';

interface Content {
  readonly role: 'user' | 'model';
  readonly parts: object[];
}

/**
 * What stands for the signature of a call that is told again. Models since Gemini 3 refuse the first
 * call of a step without one: https://ai.google.dev/gemini-api/docs/thought-signatures
 */
const NO_SIGNATURE = { thoughtSignature: 'skip_thought_signature_validator' };

export function geminiBody(request: ChatRequest): Record<string, unknown> {
  const system = request.messages.flatMap((message) => (message.role === 'system' ? [{ text: message.content }] : []));
  const generationConfig = {
    ...(request.temperature !== undefined && { temperature: request.temperature }),
    ...(request.topP !== undefined && { topP: request.topP }),
    ...(request.maxTokens !== undefined && { maxOutputTokens: request.maxTokens }),
    ...(request.stop !== undefined && { stopSequences: request.stop }),
  };
  return {
    contents: contents(request.messages, !/gemini-[12]\b/.test(request.model)),
    ...(system.length > 0 && { systemInstruction: { parts: system } }),
    ...(Object.keys(generationConfig).length > 0 && { generationConfig }),
    ...(request.tools !== undefined && { tools: [{ functionDeclarations: request.tools.map(declaration) }] }),
    ...(request.toolChoice !== undefined && {
      toolConfig: { functionCallingConfig: callingConfig(request.toolChoice) },
    }),
  };
}

/** `parametersJsonSchema` takes plain JSON schema, where `parameters` knows only a part of it. */
function declaration({ parameters, strict: _, ...tool }: NonNullable<ChatRequest['tools']>[number]): object {
  return { ...tool, ...(parameters !== undefined && { parametersJsonSchema: parameters }) };
}

/** Neighbours of one role become one content: all results of one step have to stand together. */
function contents(messages: readonly ChatMessage[], signed: boolean): Content[] {
  const contents: Content[] = [];
  for (const message of sortToolResults(messages)) {
    const parts = partsOf(message, signed);
    if (parts.length === 0) continue;
    const role = message.role === 'assistant' ? 'model' : 'user';
    const last = contents.at(-1);
    if (last?.role === role) last.parts.push(...parts);
    else contents.push({ role, parts });
  }
  return contents;
}

function partsOf(message: ChatMessage, signed: boolean): object[] {
  if (message.role === 'system') return [];
  if (message.role === 'tool') {
    return [{ functionResponse: { name: message.name, response: result(message.content) } }];
  }
  if (typeof message.content !== 'string') {
    return withoutBlankText(message.content).map((block) =>
      block.type === 'image' ? image(block.url) : { text: block.text },
    );
  }
  const text = message.content === '' ? [] : [{ text: message.content }];
  const calls = message.role === 'assistant' ? (message.toolCalls ?? []) : [];
  return [
    ...text,
    ...calls.map(({ name, arguments: args }, i) => ({
      functionCall: { name, args: parseObject(args) },
      ...(signed && i === 0 && NO_SIGNATURE),
    })),
  ];
}

/** The API wants an object. */
function result(content: string): object {
  const object = parseObject(content);
  return Object.keys(object).length > 0 ? object : { result: content };
}

const TYPES: Readonly<Record<string, string>> = {
  png: 'image/png',
  webp: 'image/webp',
  gif: 'image/gif',
  heic: 'image/heic',
  heif: 'image/heif',
};

function image(url: string): object {
  const inlined = inlineData(url);
  if (inlined) return { inlineData: inlined };
  const extension = /\.(\w+)(?:[?#].*)?$/.exec(url)?.[1]?.toLowerCase() ?? '';
  return { fileData: { fileUri: url, mimeType: TYPES[extension] ?? 'image/jpeg' } };
}

function callingConfig(choice: ToolChoice): object {
  if (typeof choice !== 'string') return { mode: 'ANY', allowedFunctionNames: [choice.name] };
  return { mode: { auto: 'AUTO', none: 'NONE', required: 'ANY' }[choice] };
}
