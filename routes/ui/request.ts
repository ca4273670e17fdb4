import type { Question } from '../../plugins/streams/api.ts';
import type { UiBody } from './schema.ts';

/** Converts UI messages to a question, as the AI SDK's `convertToModelMessages` does. */

type Message = Question['messages'][number];
type Content = Exclude<Extract<Message, { role: 'user' }>['content'], string>[number];
type UiMessage = UiBody['messages'][number];

/** A part that a model receives. Other parts (sources, data, metadata) are meant for the page. */
interface Part {
  readonly type: string;
  readonly text?: unknown;
  readonly mediaType?: unknown;
  readonly url?: unknown;
  readonly toolCallId?: unknown;
  readonly toolName?: unknown;
  readonly state?: unknown;
  readonly input?: unknown;
  readonly output?: unknown;
  readonly errorText?: unknown;
}

/** @throws the error that `invalid` returns, for a file that is not an image */
export function toQuestion(body: UiBody, invalid: (message: string) => Error): Question {
  const { model, messages, system, temperature, maxTokens, stop, tools } = body;
  return {
    model,
    messages: [
      ...(system === undefined ? [] : [{ role: 'system' as const, content: system }]),
      ...messages.flatMap((message, i) => messagesOf(message, `body.messages.${i}`, invalid)),
    ],
    ...(temperature !== undefined && { temperature }),
    ...(maxTokens !== undefined && { maxTokens }),
    ...(stop !== undefined && { stop }),
    ...(tools?.length && { tools }),
  };
}

function messagesOf({ role, parts }: UiMessage, at: string, invalid: (message: string) => Error): Message[] {
  if (role === 'assistant') return splitSteps(parts).flatMap(assistantStep);
  if (role === 'system') return [{ role, content: textOf(parts) }];
  const content = parts.flatMap((part: Part, i): Content[] => {
    if (part.type === 'text' && typeof part.text === 'string') return [{ type: 'text', text: part.text }];
    if (part.type !== 'file') return [];
    const { url, mediaType } = part;
    const isImage = typeof mediaType === 'string' && mediaType.startsWith('image/');
    if (isImage && typeof url === 'string' && /^(https:\/\/.{1,2040}$|data:image\/)/.test(url)) {
      return [{ type: 'image', url }];
    }
    throw invalid(`${at}.parts.${i} must be an image with an https: or data:image/ URL.`);
  });
  return [{ role, content }];
}

/** Splits a message of the assistant into the steps of its turn: text and calls, results, more text. */
function splitSteps(parts: readonly Part[]): Part[][] {
  const steps: Part[][] = [[]];
  for (const part of parts) {
    if (part.type === 'step-start') steps.push([]);
    else steps.at(-1)?.push(part);
  }
  return steps.filter((step) => step.length > 0);
}

/** Converts one step. Calls without a result are left out, because providers refuse them. */
function assistantStep(step: readonly Part[]): Message[] {
  const calls = step.flatMap((part) => {
    const name = part.type === 'dynamic-tool' ? part.toolName : /^tool-(.+)$/.exec(part.type)?.[1];
    const done = part.state === 'output-available' || part.state === 'output-error';
    if (typeof name !== 'string' || typeof part.toolCallId !== 'string' || !done) return [];
    return [{ id: part.toolCallId, name, input: part.input, output: part.output ?? part.errorText ?? null }];
  });
  const content = textOf(step);
  const reasoning = textOf(step, 'reasoning');
  if (content === '' && calls.length === 0) return [];
  const toolCalls = calls.map(({ id, name, input }) => ({ id, name, arguments: JSON.stringify(input ?? {}) }));
  return [
    { role: 'assistant', content, ...(toolCalls.length > 0 && { toolCalls, ...(reasoning && { reasoning }) }) },
    ...calls.map(({ id, name, output }): Message => {
      return {
        role: 'tool',
        toolCallId: id,
        name,
        content: typeof output === 'string' ? output : JSON.stringify(output),
      };
    }),
  ];
}

function textOf(parts: readonly Part[], wanted = 'text'): string {
  return parts.map(({ type, text }) => (type === wanted && typeof text === 'string' ? text : '')).join('');
}
