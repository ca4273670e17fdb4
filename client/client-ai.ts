import { read } from './client.ts';
import type { Answer, AnswerEvent, EndEvent, ToolCallEvent } from './types.ts';
import type { CallMetadata, Request, Transport, TransportOptions, UiChunk } from './types-ai.ts';

export type * from './types-ai.ts';

/**
 * A `ChatTransport` for `useChat` of the AI SDK. It asks at `POST /ui/chat`, takes the opening chunks from there, and
 * reads the rest by the URL of the stream, as `read` does: with exact resume, shared slots, and a stop that is final.
 */

/** Failures in a row after which a request without a known answer gives up. */
const MAX_FAILURES = 4;

/** Metadata of the `start` chunk. */
interface Metadata {
  readonly url: string;
}

interface Opening {
  readonly chunks: UiChunk[];
  readonly answer: Answer;
}

/** Belongs to one request, whose attempts share it. */
interface Session {
  readonly given: Request;
  readonly key?: string;
  bearer?: string | undefined;
  isRenewed?: boolean;
}

/**
 * Returns the transport: `useChat({ transport: sluiceTransport() })`.
 * @throws TypeError for a relative `url` outside of a page
 */
export function sluiceTransport({ body: fields, ...options }: TransportOptions = {}): Transport {
  const { url = '', ticket, fetch: send = fetch } = options;
  const base = new URL(`${url}/`, globalThis.location?.href);

  /** @throws Error with the message of the service */
  const request = async (path: string, session: Session, question?: object): Promise<Response> => {
    const { given, key } = session;
    // A key belongs to a ticket, so a repeated question comes with the same one.
    session.bearer ??= await ticket?.();
    const { bearer } = session;
    const response = await send(new URL(path, base), {
      headers: {
        ...Object.fromEntries(new Headers(given.headers) as unknown as Iterable<[string, string]>),
        ...(bearer && { authorization: `Bearer ${bearer}` }),
        ...(question && { 'content-type': 'application/json', 'idempotency-key': key }),
      },
      ...(question && { method: 'POST', body: JSON.stringify({ ...question, ...fields, ...given.body }) }),
    });
    if (response.ok) return response;
    if (response.status === 401 && ticket && !session.isRenewed) {
      session.isRenewed = true;
      session.bearer = undefined;
      return request(path, session, question);
    }
    const { error } = await response.json().catch(() => ({}));
    throw Object.assign(new Error(error?.message ?? `Status ${response.status}`), {
      ...error,
      status: response.status,
    });
  };

  const readOpening = async ({ body }: Response): Promise<Opening> => {
    const reader = (body as ReadableStream<BufferSource>).pipeThrough(new TextDecoderStream()).getReader();
    const chunks: UiChunk[] = [];
    for (let text = ''; ; ) {
      const { value, done } = await reader.read();
      if (done) throw new TypeError('The connection was cut.');
      const blocks = (text + value).split('\n\n');
      text = blocks.pop() as string;
      for (const block of blocks) {
        for (const line of block.split('\n')) if (line.startsWith('data: {')) chunks.push(JSON.parse(line.slice(6)));
      }
      // Earlier steps of the message may come first. What follows the last opening is read by the URL.
      const opening = chunks.findLastIndex(({ type }) => type === 'start-step') + 1;
      if (opening === 0) continue;
      const { url } = (chunks[0] as { messageMetadata?: unknown }).messageMetadata as Metadata;
      const answer = read(url, options);
      // The service has a reader all the time: without one, it may end the answer.
      answer.addEventListener('change', () => void reader.cancel().catch(() => {}), { once: true });
      return { chunks: chunks.slice(0, opening), answer };
    }
  };

  /** Repeats an attempt whose response is lost, or that the service or a gateway cannot serve now. */
  const repeat = async <T>(attempt: () => Promise<T>): Promise<T> => {
    for (let failures = 0; ; failures++) {
      try {
        return await attempt();
      } catch (error) {
        const { status = 503 } = error as { status?: number };
        if (status < 500 || failures === MAX_FAILURES) throw error;
        await new Promise((wake) => setTimeout(wake, Math.random() * 1_000 * 2 ** failures));
      }
    }
  };

  /** Aborting stops the answer, also one that is still being started. */
  const toStream = async (opening: Promise<Opening>, signal?: AbortSignal): Promise<ReadableStream<UiChunk>> => {
    const stop = () =>
      opening.then(
        ({ answer }) => answer.stop(),
        () => {},
      );
    signal?.addEventListener('abort', stop);
    const aborted = new Promise<never>((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)));
    aborted.catch(() => {});
    if (signal?.aborted) stop();
    const { chunks, answer } = await Promise.race([opening, aborted]);
    return new ReadableStream({
      async start(controller) {
        const encode = createEncoder();
        for (const chunk of chunks) controller.enqueue(chunk);
        try {
          for await (const event of answer) {
            if (signal?.aborted) break;
            for (const chunk of encode(event)) controller.enqueue(chunk);
          }
        } catch (error) {
          for (const chunk of encode(error as AnswerEvent)) controller.enqueue(chunk);
        }
        if (signal?.aborted) controller.error(signal.reason);
        else controller.close();
      },
    });
  };

  return {
    resumeStreamIsReplay: true,
    async sendMessages(given) {
      const { chatId: id, messages, abortSignal } = given;
      // The same key finds the same answer, also if that has ended.
      const session: Session = { given, key: crypto.getRandomValues(new Uint32Array(4)).join('-') };
      const question = { id, messages, resumable: true };
      const ask = async () => readOpening(await request('ui/chat', session, question));
      return toStream(repeat(ask), abortSignal);
    },
    async reconnectToStream(given) {
      const session: Session = { given };
      const running = await repeat(async () => {
        const response = await request(`ui/chat/${encodeURIComponent(given.chatId)}/stream`, session);
        return response.status === 204 ? undefined : readOpening(response);
      });
      return running ? toStream(Promise.resolve(running), given.abortSignal) : null;
    },
  };
}

const REASONS: Record<string, 'length' | 'tool-calls' | 'content-filter' | 'other'> = {
  length: 'length',
  tool_calls: 'tool-calls',
  content_filter: 'content-filter',
  other: 'other',
};

/** Returns a function that encodes the events of an answer as chunks, as the service does. */
function createEncoder(): (event: AnswerEvent) => UiChunk[] {
  const calls: { toolCallId: string; toolName: string; text: string }[] = [];
  let part: { type: 'text' | 'reasoning'; id: string } | undefined;
  let count = 0;

  const close = (): UiChunk[] => {
    const chunks: UiChunk[] = part ? [{ type: `${part.type}-end`, id: part.id }] : [];
    part = undefined;
    return chunks;
  };
  const onText = (type: 'text' | 'reasoning', delta: string): UiChunk[] => {
    const chunks: UiChunk[] = part?.type === type ? [] : close();
    if (!part) {
      part = { type, id: `${type}-${count++}` };
      chunks.push({ type: `${type}-start`, id: part.id });
    }
    return [...chunks, { type: `${type}-delta`, id: part.id, delta }];
  };
  const onCall = ({ index, id = '', name = '', arguments: text }: ToolCallEvent): UiChunk[] => {
    const chunks = close();
    const { toolCallId, toolName } = calls[index] ?? { toolCallId: id, toolName: name };
    if (!calls[index]) chunks.push({ type: 'tool-input-start', toolCallId, toolName });
    calls[index] = { toolCallId, toolName, text: (calls[index]?.text ?? '') + text };
    if (text) chunks.push({ type: 'tool-input-delta', toolCallId, inputTextDelta: text });
    return chunks;
  };
  /** Tool calls come once more here, because only complete ones can run. */
  const onEnd = ({ finishReason, usage, state }: EndEvent): UiChunk[] => {
    const ready = calls.map(({ text, ...call }, i) => {
      const metadata = state ? metadataOf(state as State, i) : {};
      const isCutOff = finishReason === 'stopped' || (finishReason === 'length' && !text);
      try {
        if (isCutOff) throw new SyntaxError('cut off');
        return { type: 'tool-input-available', ...call, input: JSON.parse(text || '{}'), ...metadata } as const;
      } catch {
        const errorText = 'The arguments of this call are not complete.';
        return { type: 'tool-input-error', ...call, input: text, errorText, ...metadata } as const;
      }
    });
    const messageMetadata = usage && { messageMetadata: { usage } };
    const finish = { type: 'finish', finishReason: REASONS[finishReason] ?? 'stop', ...messageMetadata } as const;
    return [...close(), ...ready, { type: 'finish-step' }, finish];
  };

  return (event) => {
    if (event.type === 'delta') return onText('text', event.content);
    if (event.type === 'reasoning') return onText('reasoning', event.content);
    if (event.type === 'tool_call') return onCall(event);
    if (event.type === 'end') return onEnd(event);
    return event.type === 'error' ? [...close(), { type: 'error', errorText: event.message }] : [];
  };
}

/** State that the provider wants back with its tool calls. */
interface State {
  readonly provider: string;
  readonly details?: unknown;
  readonly extraContent?: Record<number, unknown>;
}

/** Returns the state of one call; the first call has what belongs to all. The next question carries it. */
function metadataOf({ provider, details, extraContent }: State, index: number): { providerMetadata?: CallMetadata } {
  const content = extraContent?.[index];
  if (index > 0 && !content) return {};
  const sluice = {
    provider,
    ...(index === 0 && details ? { details } : {}),
    ...(content ? { extraContent: content } : {}),
  };
  return { providerMetadata: { sluice } as unknown as CallMetadata };
}
