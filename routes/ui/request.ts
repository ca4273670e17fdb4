import type { ProviderState, Question } from '../../plugins/streams/api.ts';
import { stateFromClient } from '../provider-state.ts';
import { isDeniedCall } from './earlier-steps.ts';
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
  readonly filename?: unknown;
  readonly approval?: { readonly approved?: unknown; readonly reason?: unknown } | null;
  /** Metadata of Sluice that came with the call. */
  readonly callProviderMetadata?: { readonly sluice?: CallMetadata | null } | null;
}

/** As `chunks.ts` sends it. */
interface CallMetadata {
  readonly provider?: unknown;
  readonly details?: unknown;
  readonly extraContent?: unknown;
}

/** @throws the error that `invalid` returns, for a file that is neither an image nor a PDF */
export function toQuestion(body: UiBody, invalid: (message: string) => Error): Question {
  const { model, messages, system, temperature, maxTokens, stop, tools, toolChoice, reasoningEffort } = body;
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
    ...(tools?.length && toolChoice !== undefined && { toolChoice }),
    ...(reasoningEffort !== undefined && { options: { reasoning_effort: reasoningEffort } }),
  };
}

function messagesOf({ role, parts }: UiMessage, at: string, invalid: (message: string) => Error): Message[] {
  if (role === 'assistant') return splitSteps(parts).flatMap(assistantStep);
  if (role === 'system') return [{ role, content: textOf(parts) }];
  const content = parts.flatMap((part: Part, i): Content[] => {
    if (part.type === 'text' && typeof part.text === 'string') return [{ type: 'text', text: part.text }];
    if (part.type !== 'file') return [];
    const file = fileContent(part);
    if (file) return [file];
    throw invalid(`${at}.parts.${i} must be an image or a PDF with an https: or data: URL.`);
  });
  return [{ role, content }];
}

/** Returns the content of a `file` part; undefined for a file that models cannot read. */
function fileContent({ url, mediaType, filename }: Part): Content | undefined {
  if (typeof url !== 'string' || typeof mediaType !== 'string') return undefined;
  // A longer URL is not one of the web, and some providers repeat it in their errors.
  const isRemote = url.startsWith('https://') && url.length <= 2_048;
  if (mediaType.startsWith('image/')) {
    return isRemote || url.startsWith('data:image/') ? { type: 'image', url } : undefined;
  }
  if (mediaType !== 'application/pdf' || !(isRemote || url.startsWith('data:application/pdf;'))) return undefined;
  return { type: 'file', url, mimeType: mediaType, ...(typeof filename === 'string' && { filename }) };
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

/** Text that the AI SDK tells the model of a call that the user did not allow. */
const DENIED = 'Tool call execution denied.';

/** Converts one step. Calls without a result are left out, because providers refuse them. */
function assistantStep(step: readonly Part[]): Message[] {
  const calls = step.flatMap((part) => {
    const name = part.type === 'dynamic-tool' ? part.toolName : /^tool-(.+)$/.exec(part.type)?.[1];
    if (typeof name !== 'string' || typeof part.toolCallId !== 'string') return [];
    const call = { id: part.toolCallId, name, input: part.input, metadata: part.callProviderMetadata?.sluice };
    if (isDeniedCall(part)) {
      const { reason } = part.approval ?? {};
      return [{ ...call, output: typeof reason === 'string' ? reason : DENIED }];
    }
    const done = part.state === 'output-available' || part.state === 'output-error';
    return done ? [{ ...call, output: part.output ?? part.errorText ?? null }] : [];
  });
  const content = textOf(step);
  const reasoning = textOf(step, 'reasoning');
  if (content === '' && calls.length === 0) return [];
  const state = stateOf(calls.map(({ metadata }) => metadata));
  const toolCalls = calls.map(({ id, name, input }) => ({ id, name, arguments: JSON.stringify(input ?? {}) }));
  return [
    {
      role: 'assistant',
      content,
      ...(toolCalls.length > 0 && { toolCalls, ...(reasoning && { reasoning }), ...(state && { state }) }),
    },
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

/** Returns the provider's state from the metadata of the calls; undefined if there is none. */
function stateOf(metadata: readonly (CallMetadata | null | undefined)[]): ProviderState | undefined {
  const { provider, details } = metadata[0] ?? {};
  return stateFromClient(
    Array.isArray(details) ? details.filter(isRecord).map((detail) => ({ ...detail, provider })) : [],
    metadata.map((one) =>
      isRecord(one?.extraContent) ? { ...one.extraContent, sluice: { provider: one.provider } } : undefined,
    ),
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function textOf(parts: readonly Part[], wanted = 'text'): string {
  return parts.map(({ type, text }) => (type === wanted && typeof text === 'string' ? text : '')).join('');
}
